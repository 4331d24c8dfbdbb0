// What the tables of a generated model are made of. Part of runtime.c.
#pragma once

#include "kernels.h"
#include "processor.h"
#include "weights.h"

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
