// Times the kernels of a search one after the other, each in a process of its own: one that crashes
// or hangs fails alone.
//
//   tune [--threads N] [--turns N] [--repeats N] [--min-ms N] [--deadline-ms N] [--rest-ms N]
//        [--celsius C] [--results SEED]
//
// batch.h, which is written for each batch, has the kernels and their arguments as tables. The
// arguments lie in files beside the program. A line is printed of whatever happens, when it does:
//
//   ready THREADS                 once
//   cooling CELSIUS               now and then, where a kernel has to wait for that
//   begin KERNEL                  then one of these four:
//   time KERNEL CELSIUS SECONDS...    a run each; of --results: no seconds, its result is in a file
//   died KERNEL SIGNAL
//   late KERNEL
//   error KERNEL MESSAGE
//   end                           once, after all of them
#define _GNU_SOURCE
#include "batch.h"

#include <fcntl.h>
#include <math.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "device.h"
#include "process.h"
#include "processor.h"

// Room for what kernels allocate while they run, per thread: of pages, none of which is memory
// before it is used.
static const size_t kScratch = (size_t)64 << 20;
// How often a thermometer is looked at, in ms, and the most that a child has to say.
enum { LOOK_MS = 2000, MOST_SAID = 32768 };

typedef struct {
  long threads, turns, repeats, min_ms, deadline_ms, rest_ms, seed;
  bool results;
  double celsius;
} Settings;

static Settings settings = {.turns = 1, .repeats = 5, .min_ms = 10, .deadline_ms = 60000};
static void *values[ARGUMENTS + 1];
static Pool pool;

static void take_settings(int count, char **arguments) {
  const struct {
    const char *name;
    long *value, least, most;
  } known[] = {
      {"--threads", &settings.threads, 1, MOST_THREADS},
      {"--turns", &settings.turns, 1, 1000},
      {"--repeats", &settings.repeats, 1, 1000},
      {"--min-ms", &settings.min_ms, 0, 100000},
      {"--deadline-ms", &settings.deadline_ms, 1, 1000000000},
      {"--rest-ms", &settings.rest_ms, 0, 1000000000},
      {"--results", &settings.seed, 0, INT32_MAX},
  };
  for (int i = 1; i < count; i += 2) {
    const char *value = i + 1 < count ? arguments[i + 1] : NULL;
    bool found = strcmp(arguments[i], "--celsius") == 0 && value;
    if (found) settings.celsius = atof(value);
    for (size_t k = 0; k < sizeof known / sizeof *known; ++k) {
      if (strcmp(arguments[i], known[k].name) != 0) continue;
      *known[k].value = number_of(arguments[i], value, known[k].least, known[k].most);
      settings.results |= known[k].value == &settings.seed;
      found = true;
    }
    if (!found) stop("%s: not an option of this program", arguments[i]);
  }
}

// A line for who reads this; who has gone reads no more, and nothing is measured for nobody.
static void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  bool said = vprintf(format, arguments) >= 0 && putchar('\n') == '\n' && fflush(stdout) == 0;
  va_end(arguments);
  if (!said) exit(EXIT_INPUT);
}

static void pause_ms(long ms) {
  struct timespec left = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

// The files of the arguments, mapped: a child that writes to one has a copy of its own.
static void map_arguments(void) {
  for (int i = 0; i < ARGUMENTS; ++i) {
    const Argument *argument = &arguments[i];
    if (!argument->file) continue;
    char path[PATH_MAX];
    int file = open(beside(argument->file, path, sizeof path), O_RDONLY | O_CLOEXEC);
    if (file < 0) stop("%s: cannot be read: %s", path, strerror(errno));
    struct stat state;
    if (fstat(file, &state) != 0 || (uint64_t)state.st_size != argument->bytes) {
      stop("%s: not of %llu bytes", path, (unsigned long long)argument->bytes);
    }
    values[i] = mmap(NULL, argument->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (values[i] == MAP_FAILED) stop("%s: cannot be mapped: %s", path, strerror(errno));
    close(file);
  }
}

// In a child

typedef struct {
  const Candidate *candidate;
  Tensor tensors[MOST_ARGUMENTS];
  Any packed[MOST_ARGUMENTS];
  const Argument *output;
  void *result;
  FILE *out;
} Run;

static _Noreturn void give_up(Run *run) {
  const char *message = last_error[0] ? last_error : "the kernel failed and does not say why";
  fprintf(run->out, "error %d %s", (int)(run->candidate - candidates), message);
  fclose(run->out);
  _exit(1);
}

static void call(Run *run) {
  Any result = {0};
  last_error[0] = 0;
  const Candidate *candidate = run->candidate;
  if (candidate->kernel(NULL, run->packed, candidate->count, &result) != 0) give_up(run);
}

// Seconds of a run: of the mean of so many in a row that they take long enough to be timed.
static double timed(Run *run, long *number) {
  for (;;) {
    int64_t began = nanoseconds();
    for (long i = 0; i < *number; ++i) call(run);
    double seconds = 1e-9 * (double)(nanoseconds() - began), least = 1e-3 * (double)settings.min_ms;
    if (seconds >= least || *number >= 1000000) return seconds / (double)*number;
    double enough = seconds > 0 ? least / (seconds / (double)*number) + 1 : 0;
    double more = 1.618 * (double)*number;
    *number = (long)ceil(enough > more ? enough : more);
  }
}

// Fills the result with what no kernel computes, so that what it leaves out shows: NaN, or integers
// drawn by a seed.
static void spoil(Run *run) {
  uint8_t *bytes = run->result;
  uint64_t drawn = 0x9E3779B97F4A7C15u * (uint64_t)(settings.seed + 1);
  for (uint64_t i = 0; i < run->output->bytes; ++i) {
    drawn ^= drawn << 13, drawn ^= drawn >> 7, drawn ^= drawn << 17;
    bytes[i] = run->output->code == 2 ? 0xFF : (uint8_t)drawn;
  }
}

static void keep_result(Run *run) {
  char name[32], path[PATH_MAX];
  snprintf(name, sizeof name, "y%d.bin", (int)(run->candidate - candidates));
  FILE *file = fopen(beside(name, path, sizeof path), "we");
  size_t bytes = run->output->bytes;
  bool kept = file && fwrite(run->result, 1, bytes, file) == bytes;
  if (file && fclose(file) != 0) kept = false;
  if (kept) return;
  failed("%s: cannot be written: %s", path, strerror(errno));
  give_up(run);
}

static void prepare(Run *run) {
  const Candidate *candidate = run->candidate;
  for (int i = 0; i < candidate->count; ++i) {
    int which = indices[candidate->first + i];
    const Argument *argument = &arguments[which];
    run->tensors[i] =
        tensor_of(argument->code, argument->bits, argument->ndim, extents + argument->shape);
    if (!values[which]) values[which] = new_pages(whole_pages(argument->bytes));
    if (!values[which]) {
      failed("no memory for %llu bytes", (unsigned long long)argument->bytes);
      give_up(run);
    }
    run->tensors[i].data = run->result = values[which];
    run->packed[i] = pointer_to(&run->tensors[i]);
    run->output = argument;
  }
  int reason = pool_start(&pool, (int)settings.threads, kScratch);
  if (reason) {
    failed("%ld threads cannot be started: %s", settings.threads, strerror(reason));
    give_up(run);
  }
  current_worker = &pool.workers[0];
  bind_to(&pool, 0);
}

static _Noreturn void in_child(int number, int out) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
  struct itimerval deadline = {{0, 0}, {settings.deadline_ms / 1000,
                                        settings.deadline_ms % 1000 * 1000}};
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  sigprocmask(SIG_UNBLOCK, &alarms, NULL);
  signal(SIGALRM, SIG_DFL);
  setitimer(ITIMER_REAL, &deadline, NULL);
  Run run = {.candidate = &candidates[number], .out = fdopen(out, "w")};
  prepare(&run);
  if (settings.results) {
    spoil(&run);
    call(&run);
    keep_result(&run);
    fprintf(run.out, "time %d %.1f", number, hottest());
  } else {
    call(&run);  // makes pages
    double celsius = hottest();
    fprintf(run.out, "time %d %.1f", number, celsius);
    long count = 1;
    for (long i = 0; i < settings.repeats; ++i) fprintf(run.out, " %.9g", timed(&run, &count));
  }
  fclose(run.out);
  _exit(0);
}

// In the parent, which calls no kernel

static void cool(void) {
  if (settings.rest_ms) pause_ms(settings.rest_ms);
  while (settings.celsius > 0) {
    double celsius = hottest();
    if (celsius <= 0) stop("this device shows no temperature");
    if (celsius <= settings.celsius) return;
    say("cooling %.1f", celsius);
    pause_ms(LOOK_MS);
  }
}

static void measure(int number) {
  static char said[MOST_SAID];
  int ends[2];
  cool();
  say("begin %d", number);
  if (pipe(ends) != 0) stop("no pipe: %s", strerror(errno));
  pid_t child = fork();
  if (child < 0) stop("no process: %s", strerror(errno));
  if (child == 0) {
    close(ends[0]);
    in_child(number, ends[1]);
  }
  close(ends[1]);
  size_t length = 0;
  for (;;) {
    ssize_t got = read(ends[0], said + length, sizeof said - 1 - length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    length += (size_t)got;
  }
  close(ends[0]);
  said[length] = 0;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
    say("late %d", number);
  } else if (WIFSIGNALED(status)) {
    say("died %d %d", number, WTERMSIG(status));
  } else if (WEXITSTATUS(status) > 1 || !length) {
    say("error %d it ended the process with status %d", number, WEXITSTATUS(status));
  } else {
    for (char *c = said; *c; ++c) *c = *c == '\n' ? ' ' : *c;
    say("%s", said);
  }
}

int main(int count, char **options) {
  take_settings(count, options);
  if (strcmp(machine_here, MACHINE) != 0) stop("compiled for %s", MACHINE);
  const char *missing = lacking(features, FEATURES);
  if (missing) stop("this processor has no %s, which the target's code uses", missing);
  bool differ;
  int big = big_cores(pool.cores, MOST_THREADS, &differ);
  pool.core_count = differ ? big : 0;
  if (!settings.threads) settings.threads = big > 0 ? big : 1;
  map_arguments();
  say("ready %ld", settings.threads);
  for (long turn = 0; turn < settings.turns; ++turn) {
    for (int i = 0; i < CANDIDATES; ++i) measure(i);
  }
  say("end");
  return 0;
}
