// What Kotlin's Classifier calls: frames go in one by one, probabilities come out with each clip.
#include <jni.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "program.h"

#include "clip.h"

#if !EMBEDDED
#error "bundle the model with --embed: this example has its weights in the library"
#endif

typedef struct {
  MODEL_TYPE *model;
  float *clip, *logits;
  int filled;
} Classifier;

static void throw_error(JNIEnv *env, const char *message) {
  jclass kind = (*env)->FindClass(env, "java/lang/IllegalStateException");
  if (kind) (*env)->ThrowNew(env, kind, message);
}

static void release(Classifier *classifier) {
  MODEL(close)(classifier->model);
  free(classifier->clip);
  free(classifier->logits);
  free(classifier);
}

static float *floats(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

JNIEXPORT jlong JNICALL Java_rt3d_example_Classifier_open(JNIEnv *env, jobject self) {
  (void)self;
  Classifier *classifier = calloc(1, sizeof *classifier);
  if (!classifier) {
    throw_error(env, "no memory");
    return 0;
  }
  classifier->model = MODEL(open)(NULL);
  classifier->clip = floats(MODEL(input)(0)->bytes);
  classifier->logits = floats(MODEL(output)(0)->bytes);
  if (!classifier->model || !classifier->clip || !classifier->logits) {
    throw_error(env, classifier->model ? "no memory" : MODEL(last_error)());
    release(classifier);
    return 0;
  }
  return (jlong)(intptr_t)classifier;
}

JNIEXPORT void JNICALL Java_rt3d_example_Classifier_close(JNIEnv *env, jobject self, jlong handle) {
  (void)env, (void)self;
  release((Classifier *)(intptr_t)handle);
}

JNIEXPORT jint JNICALL Java_rt3d_example_Classifier_size(JNIEnv *env, jobject self) {
  (void)env, (void)self;
  return SIZE;
}

JNIEXPORT jint JNICALL Java_rt3d_example_Classifier_stride(JNIEnv *env, jobject self) {
  (void)env, (void)self;
  return STRIDE;
}

static jfloatArray probabilities(JNIEnv *env, float *logits) {
  float largest = logits[0], sum = 0;
  for (int i = 1; i < CLASSES; ++i) largest = logits[i] > largest ? logits[i] : largest;
  for (int i = 0; i < CLASSES; ++i) sum += logits[i] = expf(logits[i] - largest);
  for (int i = 0; i < CLASSES; ++i) logits[i] /= sum;
  jfloatArray result = (*env)->NewFloatArray(env, CLASSES);
  if (result) (*env)->SetFloatArrayRegion(env, result, 0, CLASSES, logits);
  return result;
}

// Takes the next frame, `size` x `size` of 8-bit RGB. Returns the probabilities of the classes when
// a clip is whole, and NULL otherwise; half of the clip's frames are then those of the next one.
JNIEXPORT jfloatArray JNICALL Java_rt3d_example_Classifier_push(JNIEnv *env, jobject self,
                                                                jlong handle, jbyteArray frame) {
  (void)self;
  Classifier *classifier = (Classifier *)(intptr_t)handle;
  if ((*env)->GetArrayLength(env, frame) != 3 * PIXELS) {
    char message[96];
    snprintf(message, sizeof message, "a frame of %d bytes: %d are accepted",
             (int)(*env)->GetArrayLength(env, frame), 3 * PIXELS);
    throw_error(env, message);
    return NULL;
  }
  jbyte *pixels = (*env)->GetByteArrayElements(env, frame, NULL);
  if (!pixels) return NULL;
  normalise((const uint8_t *)pixels, classifier->clip, classifier->filled);
  (*env)->ReleaseByteArrayElements(env, frame, pixels, JNI_ABORT);
  if (++classifier->filled < FRAMES) return NULL;
  fill_batch(classifier->clip);
  const void *inputs[] = {classifier->clip};
  void *outputs[] = {classifier->logits};
  if (MODEL(run)(classifier->model, inputs, outputs) != 0) {
    throw_error(env, MODEL(last_error)());
    return NULL;
  }
  int hop = FRAMES > 1 ? FRAMES / 2 : 1;
  shift(classifier->clip, hop);
  classifier->filled -= hop;
  return probabilities(env, classifier->logits);
}
