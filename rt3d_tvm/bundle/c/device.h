// What a device is and how it fares, as /sys and /proc tell; and JSON. Part of the programs.
#pragma once

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { MOST_SYSTEM_CORES = 64, MOST_ZONES = 256 };

// The first line of a file without what ends it; false where it cannot be read.
static bool read_line(const char *path, char *line, size_t size) {
  FILE *file = fopen(path, "re");
  bool there = file && fgets(line, (int)size, file);
  if (file) fclose(file);
  if (!there) return false;
  line[strcspn(line, "\r\n")] = 0;
  return true;
}

static long read_number(const char *path) {
  char line[64];
  return read_line(path, line, sizeof line) && isdigit((unsigned char)line[0]) ? atol(line) : 0;
}

static void print_text(const char *text) {
  putchar('"');
  for (const unsigned char *c = (const unsigned char *)text; *c; ++c) {
    if (*c == '"' || *c == '\\') {
      printf("\\%c", *c);
    } else if (*c < 32) {
      printf("\\u%04x", *c);
    } else {
      putchar(*c);
    }
  }
  putchar('"');
}

// A file of a core's clock, such as scaling_cur_freq, in kHz; 0 where there is none.
static long core_clock(int core, const char *what) {
  char path[128];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/%s", core, what);
  return read_number(path);
}

static int system_cores(void) {
  long count = sysconf(_SC_NPROCESSORS_CONF);
  return count < 1 ? 1 : count > MOST_SYSTEM_CORES ? MOST_SYSTEM_CORES : (int)count;
}

// The core with the highest clock; of several the last one, as phones count.
static int fastest_core(void) {
  int fastest = 0;
  for (int core = 1; core < system_cores(); ++core) {
    long clock = core_clock(core, "cpuinfo_max_freq");
    if (clock >= core_clock(fastest, "cpuinfo_max_freq") && clock > 0) fastest = core;
  }
  return fastest;
}

// A thermal zone's name and temperature in degrees Celsius; false where there is none of that
// number. Zones that are switched off have a temperature of 0.
static bool read_zone(int number, char *name, size_t size, double *celsius) {
  char path[128], line[64];
  snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/type", number);
  if (!read_line(path, name, size)) return false;
  snprintf(path, sizeof path, "/sys/class/thermal/thermal_zone%d/temp", number);
  long value = read_line(path, line, sizeof line) ? atol(line) : 0;
  *celsius = value >= 1000 && value < 1000000 ? (double)value / 1e3 : 0;
  return true;
}

// The hottest zone of the processor, or of all where none is called after it; 0: not known.
static double hottest(void) {
  char name[64];
  double celsius, of_cpu = 0, of_all = 0;
  for (int i = 0; i < MOST_ZONES && read_zone(i, name, sizeof name, &celsius); ++i) {
    if (celsius > of_all) of_all = celsius;
    for (char *c = name; *c; ++c) *c = (char)tolower((unsigned char)*c);
    if (strstr(name, "cpu") && celsius > of_cpu) of_cpu = celsius;
  }
  return of_cpu > 0 ? of_cpu : of_all;
}

typedef struct {
  long clocks[MOST_SYSTEM_CORES];
  double zones[MOST_ZONES];
  int zone_count;
} State;

static void read_state(State *state) {
  char name[64];
  for (int i = 0; i < system_cores(); ++i) state->clocks[i] = core_clock(i, "scaling_cur_freq");
  state->zone_count = 0;
  for (int i = 0; i < MOST_ZONES && read_zone(i, name, sizeof name, &state->zones[i]); ++i) {
    ++state->zone_count;
  }
}

// Clocks, governors and temperatures before and after, as two members of a JSON object.
static void print_states(const State *before, const State *after) {
  printf("  \"cores\": [");
  for (int i = 0; i < system_cores(); ++i) {
    char path[128], governor[64] = "";
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", i);
    read_line(path, governor, sizeof governor);
    printf("%s\n    {\"core\": %d, \"max_khz\": %ld, \"before_khz\": %ld, \"after_khz\": %ld, ",
           i ? "," : "", i, core_clock(i, "cpuinfo_max_freq"), before->clocks[i], after->clocks[i]);
    printf("\"governor\": ");
    print_text(governor);
    printf("}");
  }
  printf("\n  ],\n  \"temperatures\": [");
  int printed = 0;
  for (int i = 0; i < before->zone_count && i < after->zone_count; ++i) {
    char name[64];
    double celsius;
    if (!read_zone(i, name, sizeof name, &celsius) || before->zones[i] <= 0) continue;
    printf("%s\n    {\"zone\": ", printed++ ? "," : "");
    print_text(name);
    printf(", \"before_c\": %.1f, \"after_c\": %.1f}", before->zones[i], after->zones[i]);
  }
  printf("\n  ],\n");
}

// The most memory that this program had, by /proc: what getrusage says begins with the program that
// started it.
static long peak_kb(void) {
  char line[256];
  long found = 0;
  FILE *file = fopen("/proc/self/status", "re");
  while (file && fgets(line, sizeof line, file)) {
    if (strncmp(line, "VmHWM:", 6) == 0) found = atol(line + 6);
  }
  if (file) fclose(file);
  return found;
}

static void print_system(void) {
  struct utsname name;
  uname(&name);
  printf("  \"system\": {\"machine\": ");
  print_text(name.machine);
  printf(", \"kernel\": ");
  print_text(name.release);
  printf(", \"page_bytes\": %ld},\n", sysconf(_SC_PAGESIZE));
  printf("  \"peak_kb\": %ld,\n", peak_kb());
}
