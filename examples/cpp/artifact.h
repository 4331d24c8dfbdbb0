// The files of an artifact, checked before anything of them is used. What they are stands in
// rt3d_tvm/artifact/format.py.
//
// The manifest is read with the JSON parser inside libtvm_ffi, so that no other library is needed.
#pragma once

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace artifact {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

// At the end of model.so and at the start of weights.bin: the kind of file, the CRC-32 of
// manifest.json and of what the file holds, its size, the artifact's id.
struct Seal {
  char kind[16];
  uint32_t manifest, held;
  uint64_t size;
  char id[32];
};
static_assert(sizeof(Seal) == 64);
#if defined(__aarch64__)
constexpr char kMachine[] = "aarch64";
#else
constexpr char kMachine[] = "x86_64";
#endif
constexpr int kFormat = 3;
constexpr size_t kAlignment = 64;

[[noreturn]] inline void Fail(const std::string& message) { throw std::runtime_error(message); }

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

inline json::Value Get(const json::Value& object, const char* key) {
  auto members = object.cast<json::Object>();
  if (members.count(ffi::String(key)) == 0) Fail(std::string("manifest.json has no ") + key);
  return members[ffi::String(key)];
}

// A tensor as an entry of the manifest describes it, on these `available` bytes.
inline ffi::Tensor View(const json::Value& entry, char* data, size_t available,
                        const std::string& what) {
  std::vector<int64_t> shape;
  int64_t count = 1;
  for (const json::Value& extent : Get(entry, "shape").cast<json::Array>()) {
    shape.push_back(extent.cast<int64_t>());
    if (shape.back() < 0 || __builtin_mul_overflow(count, shape.back(), &count)) {
      Fail(what + ": a shape that is none in manifest.json");
    }
  }
  DLDataType dtype = ffi::StringToDLDataType(Get(entry, "dtype").cast<ffi::String>());
  size_t bytes = ffi::GetDataSize(count, dtype);
  if (bytes > available || static_cast<size_t>(count) > 8 * available) {
    Fail(what + " is too short: " + std::to_string(bytes) + " bytes are needed");
  }
  return ffi::Tensor::FromNDAlloc(Borrowed{data}, ffi::ShapeView(shape.data(), shape.size()), dtype,
                                  DLDevice{kDLCPU, 0});
}

// zlib's CRC-32, of eight bytes at a time.
inline uint32_t Crc32(const char* data, size_t size) {
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      t[0][byte] = byte;
      for (int bit = 0; bit < 8; ++bit) {
        t[0][byte] = (t[0][byte] >> 1) ^ (t[0][byte] & 1 ? 0xEDB88320 : 0);
      }
    }
    for (int k = 1; k < 8; ++k) {
      for (int byte = 0; byte < 256; ++byte) {
        t[k][byte] = (t[k - 1][byte] >> 8) ^ t[0][t[k - 1][byte] & 255];
      }
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (; size >= 8; data += 8, size -= 8) {
    uint32_t low, high;
    std::memcpy(&low, data, 4), std::memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = tables[7][low & 255] ^ tables[6][low >> 8 & 255] ^ tables[5][low >> 16 & 255] ^
          tables[4][low >> 24] ^ tables[3][high & 255] ^ tables[2][high >> 8 & 255] ^
          tables[1][high >> 16 & 255] ^ tables[0][high >> 24];
  }
  while (size--) crc = (crc >> 8) ^ tables[0][(crc ^ static_cast<unsigned char>(*data++)) & 255];
  return ~crc;
}

// The artifact's files, which belong together and hold what they were written with.
struct Files {
  Mapped manifest, library, weights;

  explicit Files(const std::string& folder)
      : manifest(Existing(folder, "manifest.json")),
        library(Existing(folder, "model.so")),
        weights(Existing(folder, "weights.bin")) {
    Seal code = Checked(folder, "model.so", library, "rt3d-tvm library", true);
    Seal values = Checked(folder, "weights.bin", weights, "rt3d-tvm weights", false);
    if (std::memcmp(code.id, values.id, sizeof(code.id)) != 0) Mixed(folder);
  }

 private:
  static std::string Existing(const std::string& folder, const std::string& name) {
    std::string path = folder + "/" + name;
    if (access(path.c_str(), F_OK)) Fail(folder + ": no " + name + " in it");
    return path;
  }

  [[noreturn]] static void Mixed(const std::string& folder) {
    Fail(folder + ": its three files do not belong together");
  }

  Seal Checked(const std::string& folder, const char* name, const Mapped& file, const char* kind,
               bool at_end) {
    Seal seal{};
    size_t held = file.size - std::min(file.size, sizeof(seal));
    if (file.size >= sizeof(seal)) {
      std::memcpy(&seal, file.data + (at_end ? held : 0), sizeof(seal));
    }
    if (seal.size != file.size || std::memcmp(seal.kind, kind, sizeof(seal.kind)) != 0) {
      Fail(folder + "/" + name + ": not a whole " + (at_end ? "model" : "weights") +
           " file of format " + std::to_string(kFormat));
    }
    if (seal.manifest != Crc32(manifest.data, manifest.size)) Mixed(folder);
    if (seal.held != Crc32(file.data + (at_end ? 0 : sizeof(seal)), held)) {
      Fail(folder + "/" + name + ": damaged");
    }
    return seal;
  }
};

// What the code uses of a processor and this one has not.
inline std::string Lacking(const json::Value& processor) {
  std::string machine = Get(processor, "machine").cast<ffi::String>(), lacking;
  if (machine != kMachine) return " " + machine;
  std::string flags;
  for (std::ifstream file("/proc/cpuinfo"); std::getline(file, flags);) {
    if (flags.rfind("flags", 0) == 0) break;
  }
  for (const auto& [key, bit] : Get(processor, "features").cast<json::Object>()) {
    std::string name = key.cast<ffi::String>();
#if defined(__aarch64__)
    int64_t number = bit.cast<int64_t>();
    bool there = getauxval(number < 64 ? AT_HWCAP : AT_HWCAP2) >> number % 64 & 1;
#else
    bool there = (flags + " ").find(" " + name + " ") != std::string::npos;
#endif
    if (!there) lacking += " " + name;
  }
  return lacking;
}

// How many values an input has.
inline int64_t Count(const json::Value& entry) {
  int64_t count = 1;
  for (const json::Value& extent : Get(entry, "shape").cast<json::Array>()) {
    if (__builtin_mul_overflow(count, extent.cast<int64_t>(), &count)) Fail("a shape that is none");
  }
  return count;
}

// What runs an input: the name of a function, and what goes into it and comes out.
struct Part {
  std::string function = "main";
  json::Array inputs, outputs;
};

// The part of an artifact of several batches whose first input has so many values; of an artifact
// of one, and where none fits, the first. Each batch has a function, and all take all weights.
inline Part PartFor(const json::Value& manifest, int64_t values) {
  Part first{"main", Get(manifest, "inputs").cast<json::Array>(),
             Get(manifest, "outputs").cast<json::Array>()};
  auto members = manifest.cast<json::Object>();
  if (members.count(ffi::String("batches")) == 0) return first;
  for (const json::Value& entry : Get(manifest, "batches").cast<json::Array>()) {
    Part part = first;
    part.function = std::string(Get(entry, "function").cast<ffi::String>());
    part.inputs = Get(entry, "inputs").cast<json::Array>();
    part.outputs = Get(entry, "outputs").cast<json::Array>();
    if (Count(part.inputs[0]) == values) return part;
  }
  return first;
}

// The weights on their mapped file, each checked against its place and, if it is of indices into
// memory, against their bounds.
inline std::vector<ffi::Tensor> Weights(const json::Value& manifest, const Mapped& file) {
  std::vector<ffi::Tensor> weights;
  size_t position = sizeof(Seal);
  for (const json::Value& entry : Get(manifest, "weights").cast<json::Array>()) {
    int64_t offset = Get(entry, "offset").cast<int64_t>();
    if (offset != static_cast<int64_t>(position) || position > file.size) {
      Fail("manifest.json: its weights are not one after the other");
    }
    ffi::Tensor weight = View(entry, file.data + position, file.size - position, "weights.bin");
    if (weight.dtype().code == kDLInt && weight.dtype().bits == 32 && weight.numel()) {
      auto within = Get(entry, "within").cast<json::Array>();
      const int32_t* values = static_cast<const int32_t*>(weight.data_ptr());
      auto [low, high] = std::minmax_element(values, values + weight.numel());
      bool descends = Get(entry, "ascending").cast<bool>() &&
                      !std::is_sorted(values, values + weight.numel());
      if (descends || *low < within[0].cast<int64_t>() || *high > within[1].cast<int64_t>()) {
        Fail("weights.bin: an index that leaves the memory");
      }
    }
    weights.push_back(weight);
    size_t bytes = ffi::GetDataSize(weight.numel(), weight.dtype());
    position += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  if (position != file.size) Fail("weights.bin: more than manifest.json says");
  return weights;
}

}  // namespace artifact
