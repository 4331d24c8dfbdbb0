// Kernels that TVM compiled: how they are called, and what they ask of a runtime. Part of runtime.c.
//
// Who includes this has defined RAISE, the name of the function that takes their errors.
#pragma once

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include "threads.h"

// Of DLPack and TVM's FFI, as tvm/ffi/c_api.h has them: a tensor, a value, a kernel.
typedef struct {
  int32_t type, id;
} Device;
typedef struct {
  void *data;
  Device device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;
enum { CPU = 1, TENSOR_POINTER = 7 };
typedef struct {
  int32_t type_index;
  uint32_t padding;
  void *value;
} Any;
typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);

static inline Tensor tensor_of(int code, int bits, int ndim, const int64_t *shape) {
  Tensor tensor = {.device = {CPU, 0}, .ndim = ndim, .shape = (int64_t *)shape};
  tensor.dtype.code = (uint8_t)code, tensor.dtype.bits = (uint8_t)bits, tensor.dtype.lanes = 1;
  return tensor;
}

static inline Any pointer_to(Tensor *tensor) {
  return (Any){.type_index = TENSOR_POINTER, .value = tensor};
}

// The last error of the thread.
static _Thread_local char last_error[512];

static int failed(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return -1;
}

// What kernels ask for. They find the first three in variables of their object file, to which the
// generated file gives values.

static int parallel_launch(Lambda lambda, void *data, int tasks) {
  Worker *worker = current_worker;
  if (worker->index == 0) return pool_run(worker->pool, lambda, data, tasks);
  // A loop inside of a parallel loop runs where it is.
  ParallelEnv environment = {NULL, tasks > 0 ? tasks : 1};
  for (int task = 0; task < environment.num_task; ++task) {
    if (lambda(task, &environment, data) != 0) return -1;
  }
  return 0;
}

static void *allocate_workspace(int device, int id, uint64_t size, int code, int bits) {
  (void)device, (void)id, (void)code, (void)bits;
  void *memory = scratch_take(&current_worker->scratch, (size_t)size);
  if (!memory) failed("a kernel needs %llu bytes more than planned", (unsigned long long)size);
  return memory;
}

static int free_workspace(int device, int id, void *memory) {
  (void)device, (void)id;
  return scratch_free(&current_worker->scratch, memory);
}

// The error of a kernel.
__attribute__((visibility("hidden"))) void RAISE(const char *kind, const char **parts,
                                                 int32_t count) {
  size_t used = (size_t)snprintf(last_error, sizeof last_error, "%s: ", kind);
  for (int32_t i = 0; i < count && used < sizeof last_error; ++i) {
    if (!parts[i]) continue;
    int added = snprintf(last_error + used, sizeof last_error - used, "%s", parts[i]);
    used += added > 0 ? (size_t)added : 0;
  }
}
