// A clip as the model takes it, of frames that have its size. Who includes this has program.h, which
// says what the model's frames are.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PIXELS = SIZE * SIZE };

// A frame's pixels, 8-bit RGB, into the clip as its frame number `at`: each colour is a plane of its
// own.
static void normalise(const uint8_t *frame, float *clip, int at) {
  static const float mean[] = {MEAN}, std[] = {STD};
  for (int colour = 0; colour < 3; ++colour) {
    float scale = 1 / (255 * std[colour]), offset = mean[colour] / std[colour];
    int channel = BLUE_FIRST ? 2 - colour : colour;
    float *plane = clip + ((size_t)channel * FRAMES + (size_t)at) * PIXELS;
    for (int i = 0; i < PIXELS; ++i) plane[i] = (float)frame[3 * i + colour] * scale - offset;
  }
}

// The clip without its first `hop` frames, which are to be filled at the end.
static void shift(float *clip, int hop) {
  for (int channel = 0; channel < 3; ++channel) {
    float *planes = clip + (size_t)channel * FRAMES * PIXELS;
    memmove(planes, planes + (size_t)hop * PIXELS, sizeof *clip * (size_t)(FRAMES - hop) * PIXELS);
  }
}

// A model of several clips at once gets the same one so often.
static void fill_batch(float *clip) {
  size_t each = (size_t)3 * FRAMES * PIXELS;
  for (int i = 1; i < BATCH; ++i) memcpy(clip + (size_t)i * each, clip, each * sizeof *clip);
}
