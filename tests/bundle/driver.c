// Drives the library "model" as an app would. driver MODE WEIGHTS [INPUT OUTPUT]; - for WEIGHTS:
// those in the library. What it finds is printed as "name value" lines; a failure ends it with 1.
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model.h"

#ifdef COUNTED
// All that allocates in a program of glibc comes through these.
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
static atomic_long allocations;
void *malloc(size_t size) { ++allocations; return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { ++allocations; return __libc_calloc(count, size); }
void *realloc(void *memory, size_t size) { ++allocations; return __libc_realloc(memory, size); }
#endif

static const char *path;

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, model_last_error());
  exit(1);
}

static void expect(int condition, const char *what) {
  if (!condition) fail(what);
}

static model *opened(void) {
  model *net = model_open(path);
  expect(net != NULL, "open");
  return net;
}

static long status_kb(const char *field) {
  char line[256];
  long value = -1;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file)) {
    if (strncmp(line, field, strlen(field)) == 0) value = atol(line + strlen(field) + 1);
  }
  if (file) fclose(file);
  return value;
}

static int threads_alive(void) {
  int count = 0;
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *each; tasks && (each = readdir(tasks));) count += each->d_name[0] != '.';
  closedir(tasks);
  return count;
}

// What was allocated, which is used to the end.
void *kept[64];
static atomic_int count;

// Memory of a size, `shift` bytes behind a multiple of 64.
static void *memory(size_t size, size_t shift) {
  char *start = aligned_alloc(64, (size + 128) / 64 * 64 + 64);
  memset(start, 0, size + 64);
  kept[count++] = start;
  return start + shift;
}

static const void *input;
static size_t result_bytes;

static void run_once(model *net, void *result) {
  const void *inputs[] = {input};
  void *outputs[] = {result};
  if (model_run(net, inputs, outputs) != 0) fail("run");
}

// On one to four threads, bound and not, from aligned memory and not: all results are one.
static void run_all_ways(const char *in, const char *out) {
  size_t size = model_input(0)->bytes;
  char *aligned = memory(size, 0), *shifted = memory(size, 4);
  FILE *file = fopen(in, "rb");
  expect(file && fread(aligned, 1, size, file) == size, "input");
  fclose(file);
  memcpy(shifted, aligned, size);
  char *first = memory(result_bytes, 0), *again = memory(result_bytes, 8);
  long before = status_kb("VmRSS");
  model *net = opened();
  input = aligned;
#ifdef COUNTED
  long counted = allocations;
#endif
  run_once(net, first);
  run_once(net, first);
#ifdef COUNTED
  printf("allocations_after_open %ld\n", allocations - counted);
#endif
  printf("peak_kb %ld\n", status_kb("VmHWM") - before);
  input = shifted;
  for (int threads = 1; threads <= 4; ++threads) {
    int core = 0;
    expect(model_set_threads(net, threads) == 0 && model_threads(net) == threads, "threads");
    expect(model_set_cores(net, &core, threads % 2) == 0, "cores");
    run_once(net, again);
    expect(memcmp(first, again, result_bytes) == 0, "another result");
  }
  double *seconds = calloc((size_t)model_calls(), sizeof *seconds);
  const void *inputs[] = {aligned};
  void *outputs[] = {first};
  expect(model_run_timed(net, inputs, outputs, seconds) == 0, "timed");
  for (int i = 0; i < model_calls(); ++i) expect(seconds[i] > 0 && model_call_name(i), "time");
  file = fopen(out, "wb");
  expect(file && fwrite(first, 1, result_bytes, file) == result_bytes, "output");
  fclose(file);
  free(seconds);
  model_close(net);
  printf("threads_after_close %d\n", threads_alive());
}

static void *run_shared(void *net) {
  char *result = memory(result_bytes, 0);
  for (int i = 0; i < 20; ++i) run_once(net, result);
  return result;
}

static void *run_own(void *unused) {
  (void)unused;
  model *net = opened();
  expect(model_set_threads(net, 2) == 0, "threads");
  void *result = run_shared(net);
  model_close(net);
  return result;
}

// Eight threads with a model each; then four with one model. All give one result.
static void run_beside(void) {
  input = memory(model_input(0)->bytes, 0);
  model *net = opened();
  expect(model_set_threads(net, 3) == 0, "threads");
  char *expected = memory(result_bytes, 0);
  run_once(net, expected);
  pthread_t threads[12];
  for (int i = 0; i < 12; ++i) {
    void *(*way)(void *) = i < 8 ? run_own : run_shared;
    expect(pthread_create(&threads[i], NULL, way, net) == 0, "thread");
  }
  for (int i = 0; i < 12; ++i) {
    void *result;
    pthread_join(threads[i], &result);
    expect(memcmp(expected, result, result_bytes) == 0, "another result");
  }
  model_close(net);
  printf("threads_after_close %d\n", threads_alive());
}

// Opened and closed again and again: neither memory nor files nor threads are left.
static void open_often(int times) {
  long before = 0;
  for (int i = 0; i < times; ++i) {
    model_close(opened());
    if (i == times / 10) before = status_kb("VmSize");
  }
  printf("grown_kb %ld\n", status_kb("VmSize") - before);
  int file = dup(0);
  printf("next_file %d\n", file);
}

// A fork has no threads of the model's: it is told so, may close it, and may open its own.
static void fork_after_open(void) {
  input = memory(model_input(0)->bytes, 0);
  char *result = memory(result_bytes, 0), *again = memory(result_bytes, 0);
  model *net = opened();
  run_once(net, result);
  pid_t child = fork();
  if (child == 0) {
    const void *inputs[] = {input};
    void *outputs[] = {again};
    if (model_run(net, inputs, outputs) != -1 || model_set_threads(net, 2) != -1) _exit(2);
    printf("in_the_fork %s\n", model_last_error());
    model_close(net);
    net = opened();
    run_once(net, again);
    model_close(net);
    fflush(stdout);
    _exit(memcmp(result, again, result_bytes) != 0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  expect(status == 0, "the fork");
  run_once(net, again);
  expect(memcmp(result, again, result_bytes) == 0, "another result");
  model_close(net);
}

static int only_worker(void) {
  int found = 0;
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *each; tasks && (each = readdir(tasks));) {
    int id = atoi(each->d_name);
    if (id && id != getpid()) found = id;
  }
  closedir(tasks);
  return found;
}

static int core_of(int thread) {
  char path_of[64], line[1024];
  snprintf(path_of, sizeof path_of, "/proc/self/task/%d/stat", thread);
  FILE *file = fopen(path_of, "r");
  expect(file && fgets(line, sizeof line, file), "stat");
  fclose(file);
  char *word = strrchr(line, ')');  // the second word, which may have spaces
  for (int i = 2; i < 39; ++i) word = strchr(word + 1, ' ');
  return atoi(word);
}

// A worker that sleeps on the core of the caller goes to another one, and may run where it could.
static void share_a_core(void) {
  input = memory(model_input(0)->bytes, 0);
  char *result = memory(result_bytes, 0);
  model *net = opened();
  expect(model_set_threads(net, 2) == 0 && model_set_cores(net, NULL, 0) == 0, "threads");
  int worker = only_worker();
  cpu_set_t all, shared, after;
  int core = sched_getcpu();
  CPU_ZERO(&shared);
  CPU_SET(core, &shared);
  expect(sched_getaffinity(0, sizeof all, &all) == 0, "cores");
  expect(sched_setaffinity(0, sizeof shared, &shared) == 0, "this thread");
  expect(sched_setaffinity(worker, sizeof shared, &shared) == 0, "the worker");
  run_once(net, result);
  printf("together %d\n", core_of(worker) == core);
  usleep(50000);
  expect(sched_setaffinity(worker, sizeof all, &all) == 0, "the worker");
  run_once(net, result);
  printf("apart %d\n", core_of(worker) != core);
  expect(sched_getaffinity(worker, sizeof after, &after) == 0, "cores");
  printf("may_run_as_before %d\n", CPU_EQUAL(&all, &after));
  model_close(net);
}

// What is refused, each with its line.
static void refuse(void) {
  model *net = opened();
  const void *inputs[] = {NULL};
  void *outputs[] = {NULL};
  char *weights = memory(64, 0);
  int core = 5000;
  expect(model_run(net, inputs, outputs) == -1, "NULL");
  printf("null %s\n", model_last_error());
  expect(model_set_threads(net, 0) == -1, "no threads");
  printf("threads %s\n", model_last_error());
  expect(model_set_cores(net, &core, 1) == -1, "no core");
  printf("cores %s\n", model_last_error());
  expect(!model_open_memory(weights + 4, 64) && !model_open_memory(weights, 64), "memory");
  printf("memory %s\n", model_last_error());
  expect(!model_input(1) && !model_output(-1) && !model_call_name(model_calls()), "index");
  model_close(net);
  model_close(NULL);
}

int main(int count, char **arguments) {
  if (count < 3) return 2;
  const char *mode = arguments[1];
  path = strcmp(arguments[2], "-") ? arguments[2] : NULL;
  result_bytes = model_output(0)->bytes;
  if (strcmp(mode, "run") == 0 && count == 5) run_all_ways(arguments[3], arguments[4]);
  if (strcmp(mode, "beside") == 0) run_beside();
  if (strcmp(mode, "often") == 0 && count == 4) open_often(atoi(arguments[3]));
  if (strcmp(mode, "fork") == 0) fork_after_open();
  if (strcmp(mode, "cores") == 0) share_a_core();
  if (strcmp(mode, "refuse") == 0) refuse();
  return 0;
}
