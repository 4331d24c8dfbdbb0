// What every program is, whatever it runs: errors, its folder, memory, time, the values of options.
#pragma once

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_INPUT = 2, EXIT_WRONG = 3, MOST_BOUND = 64 };

static _Noreturn void stop(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "error: ");
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  exit(EXIT_INPUT);
}

// The path of a file in the folder that the program lies in, wherever it was called from.
static const char *beside(const char *name, char *path, size_t size) {
  ssize_t length = readlink("/proc/self/exe", path, size - 1);
  path[length > 0 ? length : 0] = 0;
  char *slash = strrchr(path, '/');
  size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
  if (folder + strlen(name) >= size) stop("%s: its path is too long", name);
  strcpy(path + folder, name);
  return path;
}

static void *memory(size_t size) {
  void *found = aligned_alloc(64, (size + 63) / 64 * 64);
  if (!found) stop("no memory for %zu bytes", size);
  memset(found, 0, size);
  return found;
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static long number_of(const char *name, const char *text, long least, long most) {
  char *end;
  errno = 0;
  long value = text ? strtol(text, &end, 10) : 0;
  if (!text || end == text || *end || errno || value < least || value > most) {
    stop("%s %s: %ld to %ld is accepted", name, text ? text : "", least, most);
  }
  return value;
}

// Cores such as "4-7,0" into a list; how many.
static int cores_of(const char *text, int *cores) {
  int count = 0;
  const char *at = text;
  while (at && *at) {
    char *end;
    long first = strtol(at, &end, 10), last = first;
    bool good = end != at;
    if (good && *end == '-') {
      at = end + 1;
      last = strtol(at, &end, 10);
      good = end != at;
    }
    if (!good || first < 0 || last < first || last > 1023 || (*end && *end != ',')) break;
    for (long core = first; core <= last && count < MOST_BOUND; ++core) cores[count++] = (int)core;
    at = *end ? end + 1 : end;
  }
  if (!text || *at || count == 0) stop("--cores %s: a list such as 4-7 is accepted", text ? text : "");
  return count;
}
