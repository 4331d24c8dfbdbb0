// Classifies a video that comes in on standard input, clip by clip, as long as there are frames.
//
//   ... | classify [--labels FILE] [--hop N] [--threads N] [--cores 4-7]
//
// frames.h says what is accepted. A clip is FRAMES frames, STRIDE apart; the next one begins --hop
// such frames later (by default where the last one ends). Of each the five likeliest classes are
// printed, with the names of the labels file, by default labels.txt beside the program.
#include "program.c"

#include "clip.h"
#include "frames.h"

enum { TOP = 5, MOST_LABEL = 256 };

static char (*labels)[MOST_LABEL];
static int label_count;

static void read_labels(const char *path, bool needed) {
  FILE *file = fopen(path, "r");
  if (!file) {
    if (needed) stop("%s: cannot be read: %s", path, strerror(errno));
    return;
  }
  labels = memory(sizeof *labels * CLASSES);
  while (label_count < CLASSES && fgets(labels[label_count], MOST_LABEL, file)) {
    labels[label_count][strcspn(labels[label_count], "\r\n")] = 0;
    ++label_count;
  }
  bool more = fgetc(file) != EOF;
  fclose(file);
  if (more || label_count != CLASSES) {
    stop("%s: the model has %d classes, the file %s names", path, CLASSES, more ? "more" : "fewer");
  }
}

static void print_top(const float *logits) {
  double largest = logits[0], sum = 0;
  for (int i = 1; i < CLASSES; ++i) largest = logits[i] > largest ? logits[i] : largest;
  for (int i = 0; i < CLASSES; ++i) sum += exp(logits[i] - largest);
  int shown[TOP] = {0}, count = CLASSES < TOP ? CLASSES : TOP;
  for (int rank = 0; rank < count; ++rank) {
    int best = -1;
    for (int i = 0; i < CLASSES; ++i) {
      bool taken = false;
      for (int j = 0; j < rank; ++j) taken = taken || shown[j] == i;
      if (!taken && (best < 0 || logits[i] > logits[best])) best = i;
    }
    shown[rank] = best;
    printf("  %.4f  class %d%s%s\n", exp(logits[best] - largest) / sum, best, labels ? "  " : "",
           labels ? labels[best] : "");
  }
}

static float *clip, *logits;
static long clips;

static void classify(MODEL_TYPE *model, long last_frame) {
  fill_batch(clip);
  const void *inputs[] = {clip};
  void *outputs[] = {logits};
  double began = now_ms();
  if (MODEL(run)(model, inputs, outputs) != 0) stop("%s", MODEL(last_error)());
  printf("clip %ld, up to frame %ld, %.1f ms\n", clips++, last_frame, now_ms() - began);
  print_top(logits);
  if (fflush(stdout) != 0) stop("the result cannot be written: %s", strerror(errno));
}

// Reads frames and classifies until the stream ends. One that is shorter than a clip repeats its
// last frame.
static void classify_stream(MODEL_TYPE *model, int hop) {
  Stream stream;
  uint8_t *frame = memory((size_t)PIXELS * 3);
  open_stream(&stream);
  int filled = 0;
  long read = 0;
  for (; read_frame(&stream, frame); ++read) {
    if (read % STRIDE != 0) continue;
    normalise(frame, clip, filled++);
    if (filled < FRAMES) continue;
    classify(model, read);
    shift(clip, hop);
    filled -= hop;
  }
  if (read == 0) stop("no frame on standard input");
  if (clips > 0) return;
  while (filled < FRAMES) normalise(frame, clip, filled++);
  fprintf(stderr, "note: %ld frames, a clip has %d: the last one is repeated\n", read, FRAMES);
  classify(model, read - 1);
}

int main(int count, char **arguments) {
  Options options = {0};
  char path[PATH_MAX];
  const char *labels_path = NULL;
  int hop = FRAMES;
  for (int i = 1; i < count; i += 2) {
    const char *value = i + 1 < count ? arguments[i + 1] : NULL;
    if (strcmp(arguments[i], "--labels") == 0 && value) {
      labels_path = value;
    } else if (strcmp(arguments[i], "--hop") == 0) {
      hop = (int)number_of(arguments[i], value, 1, FRAMES);
    } else if (!take_option(&options, arguments[i], value)) {
      stop("%s: --labels FILE, --hop N, --threads N and --cores LIST are accepted", arguments[i]);
    }
  }
  read_labels(labels_path ? labels_path : beside("labels.txt", path, sizeof path),
              labels_path != NULL);
  open_model(&options);
  clip = memory(MODEL(input)(0)->bytes);
  logits = memory(MODEL(output)(0)->bytes);
  classify_stream(options.model, hop);
  MODEL(close)(options.model);
}
