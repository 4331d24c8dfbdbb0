// A stream of frames on standard input -> frames as the model takes them. Part of classify.c.
//
// Raw: 8-bit RGB, SIZE x SIZE, one after the other. PPM (P6), as ffmpeg's image2pipe writes it. Y4M:
// 8 bits, 4:2:0, 4:2:2, 4:4:4 or grey, by BT.601. The last two are resized, so that they have the
// short side or the height and width that the model's training had, and the middle is cut out.
#pragma once

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RAW, PPM, Y4M };
enum { MOST_SIDE = 16384, MOST_RATIO = 100 };

// What each value along one axis of a resized frame is made of: `count` values of the stream's,
// from `first` on, times weights.
typedef struct {
  int *first, *count;
  float *weights;
  int most;
} Axis;

typedef struct {
  int format, width, height;
  // Of Y4M: how much smaller the planes of colour are, and whether black is 0, not 16.
  int across, down;
  bool grey, full_range;
  uint8_t *pixels, *planes;
  size_t plane_bytes;
  Axis rows, columns;
  float *lines;
  char head[9];
  size_t head_bytes;
} Stream;

// Reads, first what was read to find out the format; false at the end of the stream.
static bool take(Stream *stream, void *to, size_t size) {
  size_t kept = stream->head_bytes < size ? stream->head_bytes : size;
  memcpy(to, stream->head, kept);
  memmove(stream->head, stream->head + kept, stream->head_bytes - kept);
  stream->head_bytes -= kept;
  size_t got = fread((char *)to + kept, 1, size - kept, stdin);
  if (got < size - kept && got + kept > 0 && size > 1) {
    fprintf(stderr, "note: the stream ends inside of a frame\n");
  }
  return got == size - kept;
}

// Bilinear, and where the frame gets smaller an average over all that a value stands for: output
// values `from` to `from + size` of `to` in all, of an axis of `of` values.
static Axis axis(int of, int to, int from, int size) {
  double ratio = (double)of / to, reach = ratio > 1 ? ratio : 1;
  Axis made = {.most = (int)ceil(2 * reach) + 2};
  made.first = memory(sizeof(int) * (size_t)size);
  made.count = memory(sizeof(int) * (size_t)size);
  made.weights = memory(sizeof(float) * (size_t)size * (size_t)made.most);
  for (int i = 0; i < size; ++i) {
    double centre = (from + i + 0.5) * ratio - 0.5, sum = 0;
    int first = (int)ceil(centre - reach), last = (int)floor(centre + reach);
    if (first < 0) first = 0;
    if (last >= of) last = of - 1;
    float *weights = made.weights + (size_t)i * (size_t)made.most;
    for (int at = first; at <= last; ++at) {
      double weight = 1 - fabs(at - centre) / reach;
      weights[at - first] = (float)(weight > 0 ? weight : 0);
      sum += weights[at - first];
    }
    for (int at = first; at <= last; ++at) weights[at - first] = (float)(weights[at - first] / sum);
    made.first[i] = first, made.count[i] = last - first + 1;
  }
  return made;
}

static void resize_for(Stream *stream) {
  int width = stream->width, height = stream->height;
  if (width < 1 || height < 1 || width > MOST_SIDE || height > MOST_SIDE ||
      width > MOST_RATIO * height || height > MOST_RATIO * width) {
    stop("frames of %dx%d: sides of 1 to %d are accepted, at most %d to 1", width, height,
         MOST_SIDE, MOST_RATIO);
  }
  int to_height = RESIZE_HEIGHT, to_width = RESIZE_WIDTH;
  if (RESIZE_SHORT > 0) {
    double scale = (double)RESIZE_SHORT / (width < height ? width : height);
    to_width = (int)nearbyint(width * scale), to_height = (int)nearbyint(height * scale);
    if (to_width < RESIZE_SHORT) to_width = RESIZE_SHORT;
    if (to_height < RESIZE_SHORT) to_height = RESIZE_SHORT;
  }
  if (stream->format == RAW) to_width = to_height = SIZE;
  stream->rows = axis(height, to_height, (to_height - SIZE) / 2, SIZE);
  stream->columns = axis(width, to_width, (to_width - SIZE) / 2, SIZE);
  stream->pixels = memory((size_t)width * (size_t)height * 3);
  stream->lines = memory(sizeof(float) * (size_t)height * SIZE * 3);
}

// The parameters of "YUV4MPEG2 W64 H48 C420jpeg ...".
static void open_y4m(Stream *stream) {
  char line[512];
  size_t length = 0;
  while (take(stream, line + length, 1) && line[length] != '\n') {
    if (++length == sizeof line) stop("Y4M: its header is too long");
  }
  line[length] = 0;
  stream->across = stream->down = 2;
  char *rest = line;
  for (char *word; (word = strtok_r(rest, " ", &rest));) {
    if (word[0] == 'W') stream->width = atoi(word + 1);
    if (word[0] == 'H') stream->height = atoi(word + 1);
    if (strcmp(word, "XCOLORRANGE=FULL") == 0) stream->full_range = true;
    if (word[0] != 'C') continue;
    const char *kind = word + 1;
    stream->grey = strcmp(kind, "mono") == 0;
    if (strcmp(kind, "444") == 0) stream->across = stream->down = 1;
    if (strcmp(kind, "422") == 0) stream->down = 1;
    bool known = stream->grey || strcmp(kind, "444") == 0 || strcmp(kind, "422") == 0 ||
                 strcmp(kind, "420") == 0 || strcmp(kind, "420jpeg") == 0 ||
                 strcmp(kind, "420mpeg2") == 0 || strcmp(kind, "420paldv") == 0;
    if (!known) stop("Y4M of C%s: 420, 422, 444 and mono of 8 bits are accepted", kind);
  }
  resize_for(stream);
  size_t width = (size_t)stream->width, height = (size_t)stream->height;
  size_t colour = ((width + (size_t)stream->across - 1) / (size_t)stream->across) *
                  ((height + (size_t)stream->down - 1) / (size_t)stream->down);
  stream->plane_bytes = width * height + (stream->grey ? 0 : 2 * colour);
  stream->planes = memory(stream->plane_bytes);
}

static void open_stream(Stream *stream) {
  memset(stream, 0, sizeof *stream);
  stream->head_bytes = fread(stream->head, 1, sizeof stream->head, stdin);
  if (stream->head_bytes == sizeof stream->head && memcmp(stream->head, "YUV4MPEG2", 9) == 0) {
    stream->format = Y4M;
    open_y4m(stream);
  } else if (stream->head_bytes > 2 && stream->head[0] == 'P' && stream->head[1] == '6' &&
             strchr(" \t\r\n#", stream->head[2])) {
    stream->format = PPM;
  } else {
    stream->format = RAW, stream->width = stream->height = SIZE;
    resize_for(stream);
  }
}

static int next_character(Stream *stream) {
  unsigned char c;
  return take(stream, &c, 1) ? c : -1;
}

static bool is_blank(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// A number of a PPM's header, behind blanks and comments, and the blank after it; -1 at the end of
// the stream.
static int ppm_number(Stream *stream) {
  int c = next_character(stream);
  while (is_blank(c) || c == '#') {
    while (c == '#' && (c = next_character(stream)) != '\n' && c >= 0) c = '#';
    c = next_character(stream);
  }
  if (c < 0) return -1;
  int number = 0;
  for (; c >= '0' && c <= '9' && number <= MOST_SIDE; c = next_character(stream)) {
    number = 10 * number + (c - '0');
  }
  if (!is_blank(c)) stop("PPM: its header is damaged");
  return number;
}

static bool read_ppm(Stream *stream) {
  int p = next_character(stream);
  while (is_blank(p)) p = next_character(stream);
  if (p < 0) return false;
  if (p != 'P' || next_character(stream) != '6') stop("PPM: P6 is accepted, binary RGB");
  int width = ppm_number(stream), height = ppm_number(stream), most = ppm_number(stream);
  if (width < 0 || height < 0 || most < 0) return false;
  if (most != 255) stop("PPM: values up to %d; 255 is accepted", most);
  if (!stream->pixels) {
    stream->width = width, stream->height = height;
    resize_for(stream);
  }
  if (width != stream->width || height != stream->height) {
    stop("frames of %dx%d after some of %dx%d: one size is accepted", width, height, stream->width,
         stream->height);
  }
  return take(stream, stream->pixels, (size_t)width * (size_t)height * 3);
}

static uint8_t in_range(float value) {
  return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value + 0.5f);
}

static bool read_y4m(Stream *stream) {
  char line[128];
  size_t length = 0;
  while (take(stream, line + length, 1) && line[length] != '\n') {
    if (++length == sizeof line) stop("Y4M: a frame's header is too long");
  }
  if (length == 0) return false;
  if (strncmp(line, "FRAME", 5) != 0) stop("Y4M: no frame where one should begin");
  if (!take(stream, stream->planes, stream->plane_bytes)) return false;
  int width = stream->width, height = stream->height, row = (width + stream->across - 1) / stream->across;
  const uint8_t *luma = stream->planes, *blue = luma + (size_t)width * (size_t)height;
  const uint8_t *red = blue + (stream->plane_bytes - (size_t)width * (size_t)height) / 2;
  // BT.601: black is 16 and white 235, or 0 and 255.
  float light = stream->full_range ? 1 : 255 / 219.f, colour = stream->full_range ? 1 : 255 / 224.f;
  float black = stream->full_range ? 0 : 16;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      size_t at = (size_t)(y / stream->down) * (size_t)row + (size_t)(x / stream->across);
      float l = ((float)luma[(size_t)y * (size_t)width + (size_t)x] - black) * light;
      float b = stream->grey ? 0 : ((float)blue[at] - 128) * colour;
      float r = stream->grey ? 0 : ((float)red[at] - 128) * colour;
      uint8_t *pixel = stream->pixels + 3 * ((size_t)y * (size_t)width + (size_t)x);
      pixel[0] = in_range(l + 1.402f * r);
      pixel[1] = in_range(l - 0.344136f * b - 0.714136f * r);
      pixel[2] = in_range(l + 1.772f * b);
    }
  }
  return true;
}

// The next frame as 8-bit RGB, SIZE x SIZE; false at the end of the stream.
static bool read_frame(Stream *stream, uint8_t *frame) {
  bool there = stream->format == PPM   ? read_ppm(stream)
               : stream->format == Y4M ? read_y4m(stream)
                                       : take(stream, stream->pixels, (size_t)SIZE * SIZE * 3);
  if (!there) return false;
  const Axis *rows = &stream->rows, *columns = &stream->columns;
  for (int y = 0; y < stream->height; ++y) {
    const uint8_t *line = stream->pixels + (size_t)y * (size_t)stream->width * 3;
    for (int x = 0; x < SIZE; ++x) {
      const float *weights = columns->weights + (size_t)x * (size_t)columns->most;
      float sums[3] = {0, 0, 0};
      for (int i = 0; i < columns->count[x]; ++i) {
        const uint8_t *pixel = line + 3 * (columns->first[x] + i);
        for (int c = 0; c < 3; ++c) sums[c] += weights[i] * (float)pixel[c];
      }
      memcpy(stream->lines + ((size_t)y * SIZE + (size_t)x) * 3, sums, sizeof sums);
    }
  }
  for (int y = 0; y < SIZE; ++y) {
    const float *weights = rows->weights + (size_t)y * (size_t)rows->most;
    for (int x = 0; x < SIZE * 3; ++x) {
      float sum = 0;
      for (int i = 0; i < rows->count[y]; ++i) {
        sum += weights[i] * stream->lines[(size_t)(rows->first[y] + i) * SIZE * 3 + (size_t)x];
      }
      frame[(size_t)y * SIZE * 3 + (size_t)x] = in_range(sum);
    }
  }
  return true;
}
