// What the programs that run a model share: their options, their model. Included by each.
#define _GNU_SOURCE
#include "program.h"

#include <math.h>

#include "process.h"

typedef struct {
  MODEL_TYPE *model;
  long threads;
  int cores[MOST_BOUND], core_count;
} Options;

// Takes an option that all programs have; whether it was one.
static bool take_option(Options *options, const char *name, const char *value) {
  if (strcmp(name, "--threads") == 0) {
    options->threads = number_of(name, value, 1, 256);
  } else if (strcmp(name, "--cores") == 0) {
    options->core_count = cores_of(value, options->cores);
  } else {
    return false;
  }
  return true;
}

static void open_model(Options *options) {
  char path[PATH_MAX];
  options->model = MODEL(open)(EMBEDDED ? NULL : beside("weights.bin", path, sizeof path));
  if (!options->model) stop("%s", MODEL(last_error)());
  if (options->threads && MODEL(set_threads)(options->model, (int)options->threads) != 0) {
    stop("%s", MODEL(last_error)());
  }
  if (options->core_count &&
      MODEL(set_cores)(options->model, options->cores, options->core_count) != 0) {
    stop("%s", MODEL(last_error)());
  }
}
