// What the tables of a generated model are made of. Part of runtime.c.
#pragma once

#include "processor.h"
#include "threads.h"
#include "weights.h"

// A value of TVM's FFI, as tvm/ffi/c_api.h has it; and a kernel.
typedef struct {
  int32_t type_index;
  uint32_t padding;
  void *value;
} Any;
typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);

enum { INPUT, WEIGHT, STORAGE, OUTPUT };

// A tensor: DLPack's code and bits of its type, where its extents begin among all of them, and its
// offset in the file of the weights or in the arena; of an input or an output, which one it is.
typedef struct {
  uint8_t place, code, bits, ndim;
  uint32_t shape;
  uint64_t offset;
} PlacedTensor;

// A kernel, where its arguments begin among all of them, and the layers that it computes.
typedef struct {
  Kernel kernel;
  int32_t first, count;
  const char *name;
} Call;

// The functions of runtime.c that kernels find in variables of their object file.
static int parallel_launch(Lambda lambda, void *data, int tasks);
static void *allocate_workspace(int device, int id, uint64_t size, int code, int bits);
static int free_workspace(int device, int id, void *memory);
