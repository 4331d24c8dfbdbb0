// Runs an artifact of `rt3d compile` on a clip, with the TVM runtime and nothing else.
//
//   run_clip ARTIFACT CLIP.raw... [--rgb24] [--threads N] [--runs N] [--output LOGITS.raw]
//
// One file for each input of the model, in the manifest's order. Of a model with several outputs
// their names and shapes are printed instead of classes, and --output writes one after the other.
// CLIP.raw holds the input's values as they lie in memory, in the order of the manifest's shape:
// numpy's array.tofile() writes one. With --rgb24 it holds frames of 8-bit RGB, one after the
// other, resized and cropped as `rt3d run ARTIFACT --describe` says; they are normalised as the
// manifest says. Such frames come from a video by, for a model of 16 frames of 112x112:
//
//   ffmpeg -i VIDEO -vf scale=128:128:force_original_aspect_ratio=increase:flags=bilinear,crop=112:112
//     -frames:v 16 -f rawvideo -pix_fmt rgb24 CLIP.raw
//
// Prints the five likeliest classes, with the names that the manifest has, and the milliseconds.
// A damaged artifact, or one for another processor, is refused before anything of it runs.
#include <sched.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "artifact.h"
#include "clip.h"

using artifact::Fail;
using artifact::Get;
using artifact::Mapped;
namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

namespace {

constexpr int kTop = 5, kWarmUp = 2;
// Relax's allocator that keeps memory between runs, and the thread pool's preference for big cores.
constexpr int kPooledAllocator = 2, kBigCores = 1;

struct Options {
  std::string folder, output;
  std::vector<std::string> clips;
  bool rgb24 = false;
  int threads = 0, runs = 10;
};

ffi::Function Member(const ffi::Module& module, const char* name) {
  ffi::Optional<ffi::Function> function = module->GetFunction(name);
  if (!function.has_value()) Fail(std::string("model.so has no function ") + name);
  return *function;
}

int Cores() {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof(allowed), &allowed) ? 1 : CPU_COUNT(&allowed);
}

// Writes what the model gave to a file, one output after the other.
void Write(const std::vector<ffi::Tensor>& results, const std::string& output) {
  std::ofstream out(output, std::ios::binary);
  for (const ffi::Tensor& result : results) {
    out.write(static_cast<const char*>(result.data_ptr()),
              ffi::GetDataSize(result.numel(), result.dtype()));
  }
  if (!out.flush()) Fail(output + ": cannot be written");
}

// Names and shapes of several outputs.
void List(const std::vector<ffi::Tensor>& results, const json::Array& entries) {
  for (size_t i = 0; i < results.size(); ++i) {
    std::string name = Get(entries[i], "name").cast<ffi::String>(), shape;
    for (int axis = 0; axis < results[i].ndim(); ++axis) {
      shape += (axis ? " x " : "") + std::to_string(results[i].size(axis));
    }
    std::printf("output %s: %s\n", name.c_str(), shape.c_str());
  }
}

// Prints the likeliest classes.
void Report(const ffi::Tensor& logits, const std::vector<std::string>& labels) {
  DLDataType dtype = logits.dtype();
  if (dtype.code != kDLFloat || dtype.bits != 32) Fail("the model's output is not float32");
  const float* values = static_cast<const float*>(logits.data_ptr());
  size_t count = static_cast<size_t>(logits.numel());
  size_t finite = std::count_if(values, values + count, [](float v) { return std::isfinite(v); });
  if (finite < count) {
    Fail(std::to_string(count - finite) + " of the " + std::to_string(count) +
         " values of the output are NaN or infinite: no class is the likeliest");
  }
  size_t classes = logits.size(logits.ndim() - 1);
  std::vector<size_t> order(classes);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return values[a] > values[b]; });
  double total = 0;
  for (size_t i = 0; i < classes; ++i) total += std::exp(double(values[i]) - values[order[0]]);
  for (size_t i = 0; i < std::min<size_t>(kTop, classes); ++i) {
    double probability = std::exp(double(values[order[i]]) - values[order[0]]) / total;
    std::string label = order[i] < labels.size() ? "  " + labels[order[i]] : "";
    std::printf("class %zu  %.4f%s\n", order[i], probability, label.c_str());
  }
}

void Run(const Options& options) {
  // TVM makes its threads when it needs the first, as many as this says; later it can use fewer.
  setenv("TVM_NUM_THREADS", std::to_string(Cores()).c_str(), 1);
  ffi::Function::GetGlobalRequired("runtime.config_threadpool")(
      kBigCores, options.threads ? options.threads : Cores());

  artifact::Files files(options.folder);
  json::Value manifest = json::Parse(std::string(files.manifest.data, files.manifest.size));
  if (std::string lacking = artifact::Lacking(Get(manifest, "processor")); !lacking.empty()) {
    Fail(options.folder + ": compiled for another processor, this one has no" + lacking);
  }
  // Whoever loads a second artifact gives each library a path of its own: the dynamic loader gives
  // back what it has loaded from a path before, whatever is there by then.
  ffi::Module library = ffi::Module::LoadFromFile(options.folder + "/model.so");
  auto vm = Member(library, "vm_load_executable")().cast<ffi::Module>();
  Member(vm, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);

  // Of an artifact of several batches the file's size says which.
  Mapped clip(options.clips[0]);
  auto [function, inputs, outputs] =
      artifact::PartFor(manifest, static_cast<int64_t>(clip.size / (options.rgb24 ? 1 : 4)));
  if (options.clips.size() != inputs.size()) {
    Fail(std::to_string(options.clips.size()) + " files for a model of " +
         std::to_string(inputs.size()) + " inputs");
  }
  if (options.rgb24 && inputs.size() > 1) Fail("--rgb24 is for a model of one input");
  std::vector<std::unique_ptr<Mapped>> clips;
  std::vector<float> values;
  std::vector<ffi::Tensor> tensors;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string& path = options.clips[i];
    clips.push_back(std::make_unique<Mapped>(path));
    char* data = clips[i]->data;
    size_t size = clips[i]->size;
    if (options.rgb24) {
      values = artifact::Normalised(manifest, inputs, *clips[i], path);
      data = reinterpret_cast<char*>(values.data()), size = values.size() * sizeof(float);
    }
    tensors.push_back(artifact::View(inputs[i], data, size, path));
    size_t taken = ffi::GetDataSize(tensors[i].numel(), tensors[i].dtype());
    if (taken != size) {
      Fail(path + ": " + std::to_string(size) + " bytes, the model takes " +
           std::to_string(taken) + ", float32; --rgb24 is for frames of 8-bit RGB");
    }
  }
  for (const ffi::Tensor& weight : artifact::Weights(manifest, files.weights)) {
    tensors.push_back(weight);
  }
  std::vector<ffi::AnyView> arguments(tensors.begin(), tensors.end());

  ffi::Function main = Member(vm, function.c_str());
  ffi::Any result;
  std::vector<double> milliseconds;
  for (int i = 0; i < kWarmUp + options.runs; ++i) {
    auto started = std::chrono::steady_clock::now();
    main.CallPacked(arguments.data(), static_cast<int>(arguments.size()), &result);
    std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
    if (i >= kWarmUp) milliseconds.push_back(took.count());
  }

  std::vector<ffi::Tensor> results;
  if (outputs.size() == 1) {
    results.push_back(result.cast<ffi::Tensor>());
    Report(results[0], artifact::Labels(manifest));
  } else {
    for (const ffi::Tensor& each : result.cast<ffi::Array<ffi::Tensor>>()) results.push_back(each);
    List(results, outputs);
  }
  if (!options.output.empty()) Write(results, options.output);
  std::sort(milliseconds.begin(), milliseconds.end());
  std::printf("median of %d runs: %.2f ms\n", options.runs, milliseconds[options.runs / 2]);
}

int AtLeastOne(const std::string& name, const char* text) {
  char* end = nullptr;
  long value = std::strtol(text, &end, 10);
  if (*end || value < 1 || value > 1 << 20) Fail(name + " " + text + ": 1 or more is accepted");
  return static_cast<int>(value);
}

Options Parse(int count, char** words) {
  Options options;
  std::vector<std::string> places;
  for (int i = 1; i < count; ++i) {
    std::string word = words[i];
    if (word.rfind("--", 0) != 0) {
      places.push_back(word);
      continue;
    }
    if (word == "--rgb24") {
      options.rgb24 = true;
      continue;
    }
    if (++i == count) Fail(word + " needs a value");
    if (word == "--threads") {
      options.threads = AtLeastOne(word, words[i]);
    } else if (word == "--runs") {
      options.runs = AtLeastOne(word, words[i]);
    } else if (word == "--output") {
      options.output = words[i];
    } else {
      Fail(word + ": --rgb24, --threads, --runs and --output are known");
    }
  }
  if (places.size() < 2) {
    Fail("run_clip ARTIFACT CLIP.raw... [--rgb24] [--threads N] [--runs N] [--output LOGITS.raw]");
  }
  options.folder = places[0];
  options.clips.assign(places.begin() + 1, places.end());
  return options;
}

}  // namespace

int main(int count, char** words) {
  try {
    Run(Parse(count, words));
    return 0;
  } catch (const std::exception& error) {  // the runtime's errors are std::exceptions too
    std::fprintf(stderr, "run_clip: %s\n", error.what());
    return 1;
  }
}
