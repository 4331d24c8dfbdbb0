// The weights of a model: their file mapped, or memory of the caller's; checked before they are
// used. Part of runtime.c. What the file is stands in docs/artifact.md.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels.h"

// What the file begins with.
typedef struct {
  char kind[16];
  uint32_t manifest_crc, held_crc;
  uint64_t size;
  uint8_t id[32];
} Seal;
_Static_assert(sizeof(Seal) == 64, "the seal is 64 bytes");

// A table of indices into memory: int32 values, their bounds, and whether none is below the one
// before it.
typedef struct {
  uint64_t offset, count;
  int32_t least, most;
  bool ascending;
} IndexTable;

typedef struct {
  const char *data;
  size_t size;
  int file;  // -1: memory of the caller's
  struct stat state;
} Weights;

static uint32_t crc_tables[8][256];
static pthread_once_t crc_tables_once = PTHREAD_ONCE_INIT;

static void make_crc_tables(void) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
    crc_tables[0][byte] = crc;
  }
  for (int k = 1; k < 8; ++k) {
    for (int byte = 0; byte < 256; ++byte) {
      uint32_t crc = crc_tables[k - 1][byte];
      crc_tables[k][byte] = (crc >> 8) ^ crc_tables[0][crc & 255];
    }
  }
}

// zlib's CRC-32, of eight bytes at a time; of little-endian words.
static uint32_t crc32_of(const char *data, size_t size) {
  pthread_once(&crc_tables_once, make_crc_tables);
  const uint32_t(*t)[256] = (const uint32_t(*)[256])crc_tables;
  uint32_t crc = ~0u;
  for (; size >= 8; data += 8, size -= 8) {
    uint32_t low, high;
    memcpy(&low, data, 4);
    memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24] ^
          t[3][high & 255] ^ t[2][high >> 8 & 255] ^ t[1][high >> 16 & 255] ^ t[0][high >> 24];
  }
  while (size--) crc = (crc >> 8) ^ t[0][(crc ^ (uint8_t)*data++) & 255];
  return ~crc;
}

// 0 where the table lies within its bounds; a model's own do, and no other may be followed.
static int check_index_table(const char *data, const IndexTable *table, const char *what) {
  int32_t before = INT32_MIN;
  for (uint64_t i = 0; i < table->count; ++i) {
    int32_t value;
    memcpy(&value, data + table->offset + 4 * i, sizeof value);
    if (value < table->least || value > table->most) {
      return failed("%s: an index is %d; %d to %d lie in memory", what, (int)value,
                    (int)table->least, (int)table->most);
    }
    if (table->ascending && value < before) return failed("%s: row pointers descend", what);
    before = value;
  }
  return 0;
}

// 0 where the weights are the ones of the model with that seal, whole and unchanged.
static int weights_check(const Weights *weights, const Seal *model, const char *what) {
  Seal seal = {0};
  if (weights->size >= sizeof seal) memcpy(&seal, weights->data, sizeof seal);
  if (memcmp(seal.kind, model->kind, sizeof seal.kind) != 0) {
    return failed("%s: not a weights file of rt3d", what);
  }
  if (memcmp(seal.id, model->id, sizeof seal.id) != 0 ||
      seal.manifest_crc != model->manifest_crc) {
    return failed("%s: the weights of another model", what);
  }
  if (weights->size != model->size) {
    return failed("%s: %zu bytes long, should be %llu", what, weights->size,
                  (unsigned long long)model->size);
  }
  if (memcmp(&seal, model, sizeof seal) != 0 ||
      crc32_of(weights->data + sizeof seal, weights->size - sizeof seal) != model->held_crc) {
    return failed("%s: damaged, or changed since it was written", what);
  }
  return 0;
}

// Maps a file; 0, or -1 with an error.
static int weights_map(Weights *weights, const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return failed("%s: cannot be read: %s", path, strerror(errno));
  *weights = (Weights){.file = file};
  if (fstat(file, &weights->state) != 0 || !S_ISREG(weights->state.st_mode)) {
    close(file);
    return failed("%s: not a file", path);
  }
  weights->size = (size_t)weights->state.st_size;
  if (weights->size == 0) {
    close(file);
    return failed("%s: not a weights file of rt3d: it is empty", path);
  }
  void *data = mmap(NULL, weights->size, PROT_READ, MAP_PRIVATE, file, 0);
  if (data == MAP_FAILED) {
    int reason = errno;
    close(file);
    return failed("%s: cannot be mapped: %s", path, strerror(reason));
  }
  weights->data = data;
  return 0;
}

// 0 where nobody has written to the file since it was mapped.
static int weights_unchanged(const Weights *weights) {
  if (weights->file < 0) return 0;
  struct stat now;
  const struct stat *then = &weights->state;
  if (fstat(weights->file, &now) == 0 && now.st_size == then->st_size &&
      now.st_mtim.tv_sec == then->st_mtim.tv_sec && now.st_mtim.tv_nsec == then->st_mtim.tv_nsec) {
    return 0;
  }
  return failed("the file of the weights was written to since it was opened: open the model again");
}

static void weights_close(Weights *weights) {
  if (weights->file < 0) return;
  munmap((void *)weights->data, weights->size);
  close(weights->file);
}
