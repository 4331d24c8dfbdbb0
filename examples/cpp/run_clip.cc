// Runs an artifact of `rt3d compile` on a clip, with the TVM runtime and nothing else.
//
//   run_clip ARTIFACT CLIP.raw [--threads N] [--runs N] [--output LOGITS.raw]
//
// CLIP.raw holds the input's values as they lie in memory, in the order of the manifest's shape:
// numpy's array.tofile() writes one. Prints the five likeliest classes and the milliseconds.
//
// The manifest is read with the JSON parser inside libtvm_ffi, so that no other library is needed.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

namespace {

// The weights file: magic, its size in 8 bytes, the 32 bytes of its id; then the weights.
constexpr char kMagic[24] = "rt3d-tvm weights";
constexpr int kHeader = 64, kIdBytes = 32, kTop = 5, kWarmUp = 2;
// Relax's allocator that keeps memory between runs, and the thread pool's preference for big cores.
constexpr int kPooledAllocator = 2, kBigCores = 1;

struct Options {
  std::string folder, clip, output;
  int threads = 0, runs = 10;
};

[[noreturn]] void Fail(const std::string& message) { throw std::runtime_error(message); }

// A whole file, mapped: pages are read when a kernel first touches them, and shared with whoever
// else maps it. Stays mapped until the process ends.
struct Mapped {
  char* data = nullptr;
  size_t size = 0;

  explicit Mapped(const std::string& path) {
    int file = open(path.c_str(), O_RDONLY);
    if (file < 0) Fail(path + ": " + std::strerror(errno));
    struct stat status {};
    fstat(file, &status);
    size = static_cast<size_t>(status.st_size);
    void* address = size ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    close(file);
    if (address == MAP_FAILED) Fail(path + ": cannot be mapped");
    data = static_cast<char*>(address);
  }
};

// Makes a tensor on memory that somebody else owns.
struct Borrowed {
  void* data;
  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) {}
};

json::Value Get(const json::Value& object, const char* key) {
  auto members = object.cast<json::Object>();
  if (members.count(ffi::String(key)) == 0) Fail(std::string("manifest.json has no ") + key);
  return members[ffi::String(key)];
}

// A tensor as an entry of the manifest describes it, on these `available` bytes.
ffi::Tensor View(const json::Value& entry, char* data, size_t available, const std::string& what) {
  std::vector<int64_t> shape;
  for (const json::Value& extent : Get(entry, "shape").cast<json::Array>()) {
    shape.push_back(extent.cast<int64_t>());
  }
  DLDataType dtype = ffi::StringToDLDataType(Get(entry, "dtype").cast<ffi::String>());
  size_t bytes = ffi::GetDataSize(ffi::ShapeView(shape.data(), shape.size()).Product(), dtype);
  if (bytes > available) {
    Fail(what + " is too short: " + std::to_string(bytes) + " bytes are needed");
  }
  return ffi::Tensor::FromNDAlloc(Borrowed{data}, ffi::ShapeView(shape.data(), shape.size()), dtype,
                                  DLDevice{kDLCPU, 0});
}

std::string Hexadecimal(const char* bytes, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    char pair[3];
    std::snprintf(pair, sizeof(pair), "%02x", static_cast<unsigned char>(bytes[i]));
    text += pair;
  }
  return text;
}

ffi::Function Member(const ffi::Module& module, const char* name) {
  ffi::Optional<ffi::Function> function = module->GetFunction(name);
  if (!function.has_value()) Fail(std::string("model.so has no function ") + name);
  return *function;
}

int Cores() {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof(allowed), &allowed) ? 1 : CPU_COUNT(&allowed);
}

void Run(const Options& options) {
  // TVM makes its threads when it needs the first, as many as this says; later it can use fewer.
  setenv("TVM_NUM_THREADS", std::to_string(Cores()).c_str(), 1);
  ffi::Function::GetGlobalRequired("runtime.config_threadpool")(
      kBigCores, options.threads ? options.threads : Cores());

  std::ifstream file(options.folder + "/manifest.json");
  if (!file) Fail(options.folder + ": no manifest.json in it");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  json::Value manifest = json::Parse(text);

  ffi::Module library = ffi::Module::LoadFromFile(options.folder + "/model.so");
  auto vm = Member(library, "vm_load_executable")().cast<ffi::Module>();
  Member(vm, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);

  // One id in all three files, so that files of two artifacts are not mixed up.
  Mapped weights(options.folder + "/weights.bin");
  uint64_t size = 0;
  if (weights.size >= kHeader) std::memcpy(&size, weights.data + sizeof(kMagic), sizeof(size));
  if (size != weights.size || std::memcmp(weights.data, kMagic, sizeof(kMagic)) != 0) {
    Fail(options.folder + "/weights.bin: not a whole weights file");
  }
  std::string id = Get(manifest, "id").cast<ffi::String>();
  auto expected = Member(vm, "artifact_id")().cast<ffi::Tensor>();
  if (Hexadecimal(weights.data + kHeader - kIdBytes, kIdBytes) != id ||
      Hexadecimal(static_cast<char*>(expected.data_ptr()), kIdBytes) != id) {
    Fail(options.folder + ": its three files do not belong together");
  }

  json::Value input = Get(manifest, "inputs").cast<json::Array>()[0];
  Mapped clip(options.clip);
  std::vector<ffi::Tensor> tensors{View(input, clip.data, clip.size, options.clip)};
  size_t taken = ffi::GetDataSize(tensors[0].numel(), tensors[0].dtype());
  if (taken != clip.size) {
    Fail(options.clip + ": " + std::to_string(clip.size) + " bytes, the model takes " +
         std::to_string(taken));
  }
  for (const json::Value& entry : Get(manifest, "weights").cast<json::Array>()) {
    size_t offset = std::min<size_t>(Get(entry, "offset").cast<int64_t>(), weights.size);
    tensors.push_back(View(entry, weights.data + offset, weights.size - offset, "weights.bin"));
  }
  std::vector<ffi::AnyView> arguments(tensors.begin(), tensors.end());

  ffi::Function main = Member(vm, "main");
  ffi::Any result;
  std::vector<double> milliseconds;
  for (int i = 0; i < kWarmUp + options.runs; ++i) {
    auto started = std::chrono::steady_clock::now();
    main.CallPacked(arguments.data(), static_cast<int>(arguments.size()), &result);
    std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
    if (i >= kWarmUp) milliseconds.push_back(took.count());
  }

  auto logits = result.cast<ffi::Tensor>();
  DLDataType dtype = logits.dtype();
  if (dtype.code != kDLFloat || dtype.bits != 32) Fail("the model's output is not float32");
  const float* values = static_cast<const float*>(logits.data_ptr());
  size_t classes = logits.size(logits.ndim() - 1);
  if (!options.output.empty()) {
    std::ofstream out(options.output, std::ios::binary);
    out.write(reinterpret_cast<const char*>(values), logits.numel() * sizeof(float));
    if (!out.flush()) Fail(options.output + ": cannot be written");
  }
  std::vector<size_t> order(classes);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return values[a] > values[b]; });
  double total = 0;
  for (size_t i = 0; i < classes; ++i) total += std::exp(double(values[i]) - values[order[0]]);
  for (size_t i = 0; i < std::min<size_t>(kTop, classes); ++i) {
    double probability = std::exp(double(values[order[i]]) - values[order[0]]) / total;
    std::printf("class %zu  %.4f\n", order[i], probability);
  }
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
    if (++i == count) Fail(word + " needs a value");
    if (word == "--threads") {
      options.threads = AtLeastOne(word, words[i]);
    } else if (word == "--runs") {
      options.runs = AtLeastOne(word, words[i]);
    } else if (word == "--output") {
      options.output = words[i];
    } else {
      Fail(word + ": --threads, --runs and --output are known");
    }
  }
  if (places.size() != 2) {
    Fail("run_clip ARTIFACT CLIP.raw [--threads N] [--runs N] [--output LOGITS.raw]");
  }
  options.folder = places[0], options.clip = places[1];
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
