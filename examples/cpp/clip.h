// What the manifest says of a model's clips and classes, as rt3d_tvm/data/preprocessing.py has it.
#pragma once

#include <tvm/ffi/extra/json.h>

#include <cstdint>
#include <string>
#include <vector>

#include "artifact.h"

namespace artifact {

// A field that a model from elsewhere does not have, or has as null.
inline bool Says(const json::Value& manifest, const char* key) {
  auto members = manifest.cast<json::Object>();
  return members.count(ffi::String(key)) != 0 && members[ffi::String(key)] != nullptr;
}

// The names of the classes; none where the manifest has none.
inline std::vector<std::string> Labels(const json::Value& manifest) {
  std::vector<std::string> labels;
  if (!Says(manifest, "labels")) return labels;
  for (const json::Value& label : Get(manifest, "labels").cast<json::Array>()) {
    labels.push_back(label.cast<ffi::String>());
  }
  return labels;
}

// Frames of 8-bit RGB, as video decoders give them ([clips, frames, size, size, 3], resized and
// cropped), as the model takes them: float32 [clips, 3, frames, size, size].
inline std::vector<float> Normalised(const json::Value& manifest, const json::Array& inputs,
                                     const Mapped& frames, const std::string& what) {
  if (!Says(manifest, "preprocessing")) {
    Fail("manifest.json does not say how pixels become the input; float32 values are accepted");
  }
  json::Value says = Get(manifest, "preprocessing");
  auto mean = Get(says, "mean").cast<json::Array>(), std = Get(says, "std").cast<json::Array>();
  bool blue_first = std::string(Get(says, "colour_order").cast<ffi::String>()) == "bgr";
  auto shape = Get(inputs[0], "shape").cast<json::Array>();
  if (shape.size() != 5 || shape[1].cast<int64_t>() != 3 || mean.size() != 3 || std.size() != 3) {
    Fail("manifest.json: its preprocessing is not of its input");
  }
  size_t clips = shape[0].cast<int64_t>(), plane = 1;  // of all frames of a clip
  for (int axis : {2, 3, 4}) plane *= shape[axis].cast<int64_t>();
  if (frames.size != clips * plane * 3) {
    Fail(what + ": " + std::to_string(frames.size) + " bytes, the model takes " +
         std::to_string(clips * plane * 3) + ": " + std::to_string(shape[2].cast<int64_t>()) +
         " frames of " + std::to_string(shape[3].cast<int64_t>()) + "x" +
         std::to_string(shape[4].cast<int64_t>()) + " pixels, RGB");
  }
  std::vector<float> values(frames.size);
  for (int colour = 0; colour < 3; ++colour) {
    float deviation = std[colour].cast<double>();
    float scale = 1 / (255 * deviation), shift = float(mean[colour].cast<double>()) / deviation;
    int channel = blue_first ? 2 - colour : colour;
    for (size_t clip = 0; clip < clips; ++clip) {
      const auto* pixels = reinterpret_cast<const uint8_t*>(frames.data) + clip * plane * 3;
      float* to = values.data() + (clip * 3 + channel) * plane;
      for (size_t i = 0; i < plane; ++i) to[i] = pixels[3 * i + colour] * scale - shift;
    }
  }
  return values;
}

}  // namespace artifact
