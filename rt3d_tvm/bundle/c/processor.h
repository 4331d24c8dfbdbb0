// What this machine's processor is: its features, and how many of its cores are big ones. Part of
// runtime.c.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#ifdef __linux__
#include <sched.h>
#include <sys/auxv.h>
#endif

// A feature that code uses: the kernel's name of it, and on AArch64 its bit of HWCAP, from 64 on of
// HWCAP2.
typedef struct {
  const char *name;
  int number;
} Feature;

#if defined(__aarch64__)
static const char machine_here[] = "aarch64";
#elif defined(__x86_64__)
static const char machine_here[] = "x86_64";
#else
static const char machine_here[] = "another";
#endif

#if defined(__x86_64__)
// The line of /proc/cpuinfo with the features of the first processor; empty where it tells none.
static void read_flags(char *flags, size_t size) {
  flags[0] = 0;
  FILE *file = fopen("/proc/cpuinfo", "re");
  while (file && fgets(flags, (int)size, file)) {
    if (strncmp(flags, "flags", 5) == 0) break;
    flags[0] = 0;
  }
  if (file) fclose(file);
}

static bool has_word(const char *text, const char *word) {
  size_t length = strlen(word);
  for (const char *at = text; (at = strstr(at, word)); at += length) {
    char after = at[length];
    if (at > text && at[-1] == ' ' && (after == ' ' || after == '\n' || after == 0)) return true;
  }
  return false;
}
#endif

// The first of these features that the processor has not; NULL where it has all, or cannot be
// asked.
static const char *lacking(const Feature *features, int count) {
#if defined(__aarch64__) && defined(__linux__)
  for (int i = 0; i < count; ++i) {
    int number = features[i].number;
    unsigned long bits = getauxval(number < 64 ? AT_HWCAP : AT_HWCAP2);
    if (!(bits >> (number & 63) & 1)) return features[i].name;
  }
#elif defined(__x86_64__)
  char flags[8192];
  read_flags(flags, sizeof flags);
  for (int i = 0; flags[0] && i < count; ++i) {
    if (!has_word(flags, features[i].name)) return features[i].name;
  }
#else
  (void)features, (void)count;
#endif
  return NULL;
}

// The highest clock of a core in kHz; 0 where the system does not tell.
static long highest_clock(int core) {
  char path[96];
  long clock = 0;
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq", core);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  if (fscanf(file, "%ld", &clock) != 1) clock = 0;
  fclose(file);
  return clock;
}

// The cores that this process may run on, the big ones where there are two kinds: those whose clock
// is at least three quarters of the fastest one's. Whether there are two kinds is `differ`.
static int big_cores(int *cores, int most, bool *differ) {
  int count = 0;
  *differ = false;
#ifdef __linux__
  cpu_set_t allowed;
  long clocks[CPU_SETSIZE], fastest = 0;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    clocks[core] = CPU_ISSET(core, &allowed) ? highest_clock(core) : 0;
    if (clocks[core] > fastest) fastest = clocks[core];
  }
  for (int core = 0; core < CPU_SETSIZE && count < most; ++core) {
    if (!CPU_ISSET(core, &allowed)) continue;
    if (4 * clocks[core] >= 3 * fastest) {
      cores[count++] = core;
    } else {
      *differ = true;
    }
  }
#else
  (void)cores, (void)most;
#endif
  return count;
}
