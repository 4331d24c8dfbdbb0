// Times the model on the inputs that lie beside the program, and checks its outputs.
//
//   bench [--threads N] [--cores 4-7] [--runs N] [--progress S]
//
// Prints JSON, and with --progress before it a line on how far it is, at most one in S seconds.
// The status is 3 where an output is not the expected one, 2 for anything wrong.
#include "program.c"

#include "device.h"

enum { WARM_UP = 2, TIMED_LAYERS = 5, MOST_RUNS = 100000, LONGEST_S = 3600 };

// Of one run: how long it took; the clock of the fastest core and the hottest zone after it.
typedef struct {
  double ms, celsius;
  long khz;
} Sample;

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// What so many per cent of sorted values stay below, between two of them as numpy has it.
static double percentile(const double *sorted, int count, double percent) {
  double at = percent / 100 * (count - 1);
  int below = (int)at;
  int above = below + 1 < count ? below + 1 : below;
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

static void *buffers[2][16];

// So many bytes of a file beside the program: all that it has. NULL where there is no such file.
static void *read_beside(const char *name, size_t size) {
  char path[PATH_MAX];
  FILE *file = fopen(beside(name, path, sizeof path), "rb");
  if (!file) {
    if (errno == ENOENT) return NULL;
    stop("%s: cannot be read: %s", path, strerror(errno));
  }
  char *data = memory(size + 1);
  size_t got = fread(data, 1, size + 1, file);
  fclose(file);
  if (got != size) {
    stop("%s: the model needs %zu bytes, it has %s", path, size, got < size ? "fewer" : "more");
  }
  return data;
}

// How far it is: whoever waits for a slow device knows by this that it is alive. Every run tells it
// once it is timed, so that its line is no part of any.
static struct {
  double every_ms, told_ms;
  int run, runs;
} progress;

static void tell(void) {
  double now = now_ms();
  if (progress.every_ms <= 0 || now - progress.told_ms < progress.every_ms) return;
  progress.told_ms = now;
  printf("run %d of %d\n", progress.run, progress.runs);
  fflush(stdout);
}

// Runs the model once; how many milliseconds it took.
static double run(MODEL_TYPE *model, double *seconds) {
  double start = now_ms();
  if (MODEL(run_timed)(model, (const void *const *)buffers[0], buffers[1], seconds) != 0) {
    stop("%s", MODEL(last_error)());
  }
  double taken = now_ms() - start;
  ++progress.run;
  return taken;
}

static void prepare(void) {
  if (MODEL(inputs)() > 16 || MODEL(outputs)() > 16) stop("more than 16 inputs or outputs");
  for (int i = 0; i < MODEL(inputs)(); ++i) {
    char name[32];
    snprintf(name, sizeof name, "input%d.bin", i);
    buffers[0][i] = read_beside(name, MODEL(input)(i)->bytes);
    if (!buffers[0][i]) stop("no %s beside the program", name);
  }
  for (int i = 0; i < MODEL(outputs)(); ++i) buffers[1][i] = memory(MODEL(output)(i)->bytes);
}

// The largest difference to an expected output over its largest value, where it is no float none or
// infinity; -1 where there is nothing to compare with.
static double error_of_output(int number) {
  char name[32];
  snprintf(name, sizeof name, "expected%d.bin", number);
  size_t bytes = MODEL(output)(number)->bytes;
  float *expected = read_beside(name, bytes);
  if (!expected) return -1;
  const float *found = buffers[1][number];
  if (strcmp(MODEL(output)(number)->dtype, "float32") != 0) {
    bool same = memcmp(found, expected, bytes) == 0;
    free(expected);
    return same ? 0 : INFINITY;
  }
  double largest = 0, apart = 0;
  for (size_t i = 0; i < bytes / sizeof *found; ++i) {
    double difference = fabs((double)found[i] - expected[i]);
    if (!(difference <= apart)) apart = isnan(difference) ? INFINITY : difference;
    if (fabs((double)expected[i]) > largest) largest = fabs((double)expected[i]);
  }
  free(expected);
  return largest > 0 ? apart / largest : apart;
}

// The largest of all outputs, and how many were compared.
static double error_of_outputs(int *compared) {
  double largest = -1;
  *compared = 0;
  for (int i = 0; i < MODEL(outputs)(); ++i) {
    double error = error_of_output(i);
    *compared += error >= 0;
    if (error > largest) largest = error;
  }
  return largest;
}

// The seconds of every call, one run after the other.
static double *time_layers(MODEL_TYPE *model) {
  int calls = MODEL(calls)();
  double *seconds = memory(sizeof(double) * (size_t)calls * TIMED_LAYERS);
  for (int i = 0; i < TIMED_LAYERS; ++i) {
    run(model, seconds + i * calls);
    tell();
  }
  return seconds;
}

static void print_layers(const double *seconds) {
  int calls = MODEL(calls)();
  printf("  \"calls\": [");
  for (int call = 0; call < calls; ++call) {
    double taken[TIMED_LAYERS];
    for (int i = 0; i < TIMED_LAYERS; ++i) taken[i] = 1e3 * seconds[i * calls + call];
    qsort(taken, TIMED_LAYERS, sizeof *taken, ascending);
    printf("%s\n    {\"name\": ", call ? "," : "");
    print_text(MODEL(call_name)(call));
    printf(", \"ms\": %.5f}", taken[TIMED_LAYERS / 2]);
  }
  printf("\n  ],\n");
}

static void print_samples(const Sample *samples, int runs) {
  double *sorted = memory(sizeof(double) * (size_t)runs);
  for (int i = 0; i < runs; ++i) sorted[i] = samples[i].ms;
  qsort(sorted, (size_t)runs, sizeof *sorted, ascending);
  printf("  \"p50_ms\": %.5f,\n  \"p90_ms\": %.5f,\n  \"p99_ms\": %.5f,\n",
         percentile(sorted, runs, 50), percentile(sorted, runs, 90), percentile(sorted, runs, 99));
  printf("  \"samples\": [");
  for (int i = 0; i < runs; ++i) {
    printf("%s\n    {\"ms\": %.5f, \"khz\": %ld, \"celsius\": %.1f}", i ? "," : "", samples[i].ms,
           samples[i].khz, samples[i].celsius);
  }
  printf("\n  ]\n");
  free(sorted);
}

int main(int count, char **arguments) {
  Options options = {0};
  int runs = 20;
  for (int i = 1; i < count; i += 2) {
    const char *value = i + 1 < count ? arguments[i + 1] : NULL;
    if (strcmp(arguments[i], "--runs") == 0) {
      runs = (int)number_of(arguments[i], value, 1, MOST_RUNS);
    } else if (strcmp(arguments[i], "--progress") == 0) {
      progress.every_ms = 1e3 * (double)number_of(arguments[i], value, 1, LONGEST_S);
    } else if (!take_option(&options, arguments[i], value)) {
      stop("%s: --threads N, --cores LIST, --runs N and --progress S are accepted", arguments[i]);
    }
  }
  double began = now_ms();
  open_model(&options);
  double open_ms = now_ms() - began;
  prepare();
  Sample *samples = memory(sizeof(Sample) * (size_t)runs);
  State before, after;
  int fastest = fastest_core();
  read_state(&before);
  progress.runs = WARM_UP + runs + TIMED_LAYERS;
  progress.told_ms = began;
  tell();
  for (int i = 0; i < WARM_UP; ++i) {
    run(options.model, NULL);
    tell();
  }
  for (int i = 0; i < runs; ++i) {
    samples[i].ms = run(options.model, NULL);
    samples[i].khz = core_clock(fastest, "scaling_cur_freq");
    samples[i].celsius = hottest();
    tell();
  }
  read_state(&after);
  int compared;
  double error = error_of_outputs(&compared);
  double *seconds = time_layers(options.model);
  printf("{\n  \"bench\": 1,\n  \"artifact\": \"%s\",\n", ARTIFACT);
  printf("  \"threads\": %d,\n  \"runs\": %d,\n", MODEL(threads)(options.model), runs);
  printf("  \"open_ms\": %.3f,\n  \"checked\": ", open_ms);
  bool passed = error <= LIMIT;
  if (error < 0) {
    printf("null,\n");
  } else if (isinf(error)) {
    printf("{\"outputs\": %d, \"max_rel_error\": null, \"limit\": %g, \"passed\": false},\n",
           compared, LIMIT);
  } else {
    printf("{\"outputs\": %d, \"max_rel_error\": %g, \"limit\": %g, \"passed\": %s},\n", compared,
           error, LIMIT, passed ? "true" : "false");
  }
  print_system();
  print_states(&before, &after);
  print_layers(seconds);
  free(seconds);
  print_samples(samples, runs);
  printf("}\n");
  MODEL(close)(options.model);
  if (fflush(stdout) != 0) stop("the result cannot be written: %s", strerror(errno));
  return passed ? 0 : EXIT_WRONG;
}
