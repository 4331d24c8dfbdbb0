// Runs a compiled model: its calls in order, on memory that was laid out when it was compiled.
//
// The generated file that includes this one has the model as tables (tables.h) and the macro MODEL,
// which puts the model's name before a function's. Kernels are compiled by TVM and called by its
// FFI; what they ask of a runtime is answered by kernels.h, and there is no TVM beside it.
#include "tables.h"

typedef struct MODEL_TYPE Model;

struct MODEL_TYPE {
  Tensor tensors[TENSORS];
  Any arguments[ARGUMENTS];
  Weights weights;
  char *arena;
  size_t arena_size;
  // Where an input or output is copied to that is not aligned.
  char *aligned_inputs[INPUTS], *aligned_outputs[OUTPUTS];
  Pool pool;
  pthread_mutex_t running;
  pid_t opened_by;
};

// Memory

static size_t aligned(size_t size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static int lay_out(Model *model) {
  size_t size = 0;
  for (int i = 0; i < INPUTS; ++i) size += aligned(input_tensors[i].bytes);
  for (int i = 0; i < OUTPUTS; ++i) size += aligned(output_tensors[i].bytes);
  model->arena_size = whole_pages(ARENA_BYTES + size);
  if (!(model->arena = new_pages(model->arena_size))) {
    return failed("no memory for %zu bytes of activations", model->arena_size);
  }
#ifdef MADV_HUGEPAGE
  // Kernels walk through many planes at once, more than a core knows small pages.
  (void)madvise(model->arena, ARENA_BYTES, MADV_HUGEPAGE);  // of a system that has others
#endif
  // Behind the storages, where no page is the process's before something is copied into it.
  char *next = model->arena + ARENA_BYTES;
  for (int i = 0; i < INPUTS; ++i) {
    model->aligned_inputs[i] = next;
    next += aligned(input_tensors[i].bytes);
  }
  for (int i = 0; i < OUTPUTS; ++i) {
    model->aligned_outputs[i] = next;
    next += aligned(output_tensors[i].bytes);
  }
  for (int i = 0; i < TENSORS; ++i) {
    const PlacedTensor *placed = &placed_tensors[i];
    Tensor *tensor = &model->tensors[i];
    *tensor = tensor_of(placed->code, placed->bits, placed->ndim, extents + placed->shape);
    if (placed->place == STORAGE) tensor->data = model->arena + placed->offset;
    if (placed->place == WEIGHT) tensor->data = (char *)model->weights.data + placed->offset;
  }
  for (int i = 0; i < ARGUMENTS; ++i) {
    model->arguments[i] = pointer_to(&model->tensors[arguments[i]]);
  }
  return 0;
}

static int start_threads(Model *model, int threads) {
  int reason = pool_start(&model->pool, threads, SCRATCH_BYTES);
  return reason ? failed("%d threads cannot be started: %s", threads, strerror(reason)) : 0;
}

static int start(Model *model, const char *what) {
  if (strcmp(machine_here, MACHINE) != 0) return failed("compiled for %s", MACHINE);
  const char *missing = lacking(features, FEATURES);
  if (missing) return failed("this processor has no %s, which the model uses", missing);
  if (weights_check(&model->weights, &seal, what) != 0) return -1;
  for (int i = 0; i < INDEX_TABLES; ++i) {
    if (check_index_table(model->weights.data, &index_tables[i], what) != 0) return -1;
  }
  if (lay_out(model) != 0) return -1;
  bool differ;
  int count = big_cores(model->pool.cores, MOST_THREADS, &differ);
  model->pool.core_count = differ ? count : 0;
  return start_threads(model, count > 0 ? count : 1);
}

static void release(Model *model) {
  if (model->arena) munmap(model->arena, model->arena_size);
  weights_close(&model->weights);
  free(model);
}

static Model *opened(Weights weights, const char *what) {
  Model *model = calloc(1, sizeof *model);
  if (!model) {
    failed("no memory for the model");
    weights_close(&weights);
    return NULL;
  }
  model->weights = weights, model->opened_by = getpid();
  if (start(model, what) != 0) {
    release(model);
    return NULL;
  }
  pthread_mutex_init(&model->running, NULL);
  return model;
}

// The functions of model.h

Model *MODEL(open)(const char *path) {
  Weights weights;
  if (!path) {
#ifdef EMBEDDED
    return MODEL(open_memory)(embedded_weights, SEALED_BYTES);
#else
    failed("the weights are in no library: their file is needed");
    return NULL;
#endif
  }
  return weights_map(&weights, path) == 0 ? opened(weights, path) : NULL;
}

Model *MODEL(open_memory)(const void *data, size_t size) {
  if (!data || (uintptr_t)data % ALIGNMENT) {
    failed("the weights in memory have to lie at a multiple of %d bytes", ALIGNMENT);
    return NULL;
  }
  return opened((Weights){.data = data, .size = size, .file = -1}, "the weights in memory");
}

void MODEL(close)(Model *model) {
  if (!model) return;
  bool forked = model->opened_by != getpid();
  pool_stop(&model->pool, forked);
  if (!forked) pthread_mutex_destroy(&model->running);
  release(model);
}

int MODEL(inputs)(void) { return INPUTS; }
int MODEL(outputs)(void) { return OUTPUTS; }
int MODEL(calls)(void) { return CALLS; }
const MODEL_TENSOR *MODEL(input)(int i) { return i >= 0 && i < INPUTS ? &input_tensors[i] : NULL; }
const MODEL_TENSOR *MODEL(output)(int i) {
  return i >= 0 && i < OUTPUTS ? &output_tensors[i] : NULL;
}
const char *MODEL(call_name)(int i) { return i >= 0 && i < CALLS ? calls[i].name : NULL; }
const char *MODEL(last_error)(void) { return last_error; }
int MODEL(threads)(const Model *model) { return model->pool.threads; }

static bool is_aligned(const void *memory) { return (uintptr_t)memory % ALIGNMENT == 0; }

// Inputs and outputs of a run: the caller's memory, or an aligned copy of it.
static void point(Model *model, const void *const inputs[], void *const outputs[]) {
  for (int i = 0; i < INPUTS; ++i) {
    if (!is_aligned(inputs[i])) memcpy(model->aligned_inputs[i], inputs[i], input_tensors[i].bytes);
  }
  for (int i = 0; i < TENSORS; ++i) {
    const PlacedTensor *placed = &placed_tensors[i];
    size_t at = (size_t)placed->offset;  // the index of an input or output
    if (placed->place == INPUT) {
      bool in_place = is_aligned(inputs[at]);
      model->tensors[i].data = in_place ? (void *)inputs[at] : model->aligned_inputs[at];
    } else if (placed->place == OUTPUT) {
      bool in_place = is_aligned(outputs[at]);
      model->tensors[i].data = in_place ? outputs[at] : model->aligned_outputs[at];
    }
  }
}

static int call_all(Model *model, double *seconds) {
  say_core(&model->pool.workers[0]);
  for (int i = 0; i < CALLS; ++i) {
    Any result = {0};
    int64_t began = seconds ? nanoseconds() : 0;
    last_error[0] = 0;
    if (calls[i].kernel(NULL, model->arguments + calls[i].first, calls[i].count, &result) != 0) {
      if (!last_error[0]) failed("%s failed", calls[i].name);
      return -1;
    }
    if (seconds) seconds[i] = 1e-9 * (double)(nanoseconds() - began);
  }
  return 0;
}

// Runs on the cores that were set, which the calling thread leaves again.
static int run_bound(Model *model, double *seconds) {
#ifdef __linux__
  cpu_set_t before;
  bool bound = model->pool.core_count > 0 && sched_getaffinity(0, sizeof before, &before) == 0;
  if (bound) bind_to(&model->pool, 0);
  int status = call_all(model, seconds);
  if (bound) (void)sched_setaffinity(0, sizeof before, &before);
  return status;
#else
  return call_all(model, seconds);
#endif
}

static int refuse_fork(const Model *model) {
  if (model->opened_by == getpid()) return 0;
  return failed("this process was forked after the model was opened: open it again");
}

int MODEL(run_timed)(Model *model, const void *const inputs[], void *const outputs[],
                     double *seconds) {
  if (refuse_fork(model) != 0) return -1;
  for (int i = 0; i < INPUTS; ++i) {
    if (!inputs[i]) return failed("input %d is NULL", i);
  }
  for (int i = 0; i < OUTPUTS; ++i) {
    if (!outputs[i]) return failed("output %d is NULL", i);
  }
  pthread_mutex_lock(&model->running);
  int status = weights_unchanged(&model->weights);
  if (status == 0 && !model->pool.workers) status = failed("the model has no threads");
  if (status == 0) {
    Worker *outer = current_worker;
    current_worker = &model->pool.workers[0];
    current_worker->scratch.used = 0;
    point(model, inputs, outputs);
    status = run_bound(model, seconds);
    current_worker = outer;
  }
  for (int i = 0; i < OUTPUTS && status == 0; ++i) {
    if (is_aligned(outputs[i])) continue;
    memcpy(outputs[i], model->aligned_outputs[i], output_tensors[i].bytes);
  }
  pthread_mutex_unlock(&model->running);
  return status;
}

int MODEL(run)(Model *model, const void *const inputs[], void *const outputs[]) {
  return MODEL(run_timed)(model, inputs, outputs, NULL);
}

int MODEL(set_threads)(Model *model, int threads) {
  if (refuse_fork(model) != 0) return -1;
  if (threads < 1 || threads > MOST_THREADS) {
    return failed("%d threads: 1 to %d are accepted", threads, MOST_THREADS);
  }
  pthread_mutex_lock(&model->running);
  int status = 0;
  if (threads != model->pool.threads || !model->pool.workers) {
    pool_stop(&model->pool, false);
    status = start_threads(model, threads);
  }
  pthread_mutex_unlock(&model->running);
  return status;
}

int MODEL(set_cores)(Model *model, const int *cores, int count) {
  if (refuse_fork(model) != 0) return -1;
  if (count < 0 || count > MOST_CORES) {
    return failed("%d cores: 0 to %d are accepted", count, MOST_CORES);
  }
  for (int i = 0; i < count; ++i) {
    if (cores[i] < 0 || cores[i] >= MOST_CORES) {
      return failed("core %d: 0 to %d are accepted", cores[i], MOST_CORES - 1);
    }
  }
  pthread_mutex_lock(&model->running);
  int threads = model->pool.threads;
  pool_stop(&model->pool, false);  // they read the list when they start
  for (int i = 0; i < count; ++i) model->pool.cores[i] = cores[i];
  model->pool.core_count = count;
  int status = start_threads(model, threads);
  pthread_mutex_unlock(&model->running);
  return status;
}
