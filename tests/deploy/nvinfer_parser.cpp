// Loads a parser library as nvinfer does, gives it a network's outputs, and writes the objects that it makes.
// nvinfer_parser LIBRARY FUNCTION WIDTH HEIGHT CLASSES THRESHOLD {NAME TYPE RANK DIM...}...; buffers on the input, in that order.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <list>
#include <string>
#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace {

template <typename T>
void give(const T* values, std::size_t count) {
  std::fwrite(values, sizeof(T), count, stdout);
}

template <typename Object>
void head(const Object& object) {
  const float values[6] = {static_cast<float>(object.classId), object.left, object.top, object.width, object.height,
                           object.detectionConfidence};
  give(values, 6);
}

}  // namespace

int main(int count, char** words) {
  void* library = dlopen(words[1], RTLD_NOW);
  if (library == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 2;
  const std::string function = words[2];
  void* found = dlsym(library, words[2]);
  if (found == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 2;
  NvDsInferNetworkInfo network{static_cast<unsigned>(std::atoi(words[3])), static_cast<unsigned>(std::atoi(words[4])), 3};
  NvDsInferParseDetectionParams wanted;
  wanted.numClassesConfigured = static_cast<unsigned>(std::atoi(words[5]));
  wanted.perClassPreclusterThreshold.assign(wanted.numClassesConfigured, static_cast<float>(std::atof(words[6])));
  std::vector<NvDsInferLayerInfo> layers;
  std::list<std::vector<char>> buffers;
  for (int i = 7; i < count;) {
    NvDsInferLayerInfo layer{};
    layer.layerName = words[i++];
    layer.dataType = std::string(words[i++]) == "int32" ? INT32 : FLOAT;
    layer.inferDims.numDims = static_cast<unsigned>(std::atoi(words[i++]));
    layer.inferDims.numElements = 1;
    for (unsigned k = 0; k < layer.inferDims.numDims; ++k)
      layer.inferDims.numElements *= layer.inferDims.d[k] = static_cast<unsigned>(std::atoi(words[i++]));
    buffers.emplace_back(4 * layer.inferDims.numElements);
    if (std::fread(buffers.back().data(), 1, buffers.back().size(), stdin) != buffers.back().size()) return 3;
    layer.buffer = buffers.back().data();
    layers.push_back(layer);
  }
  if (function == "OnnxgraftKeypoints") {
    std::vector<float> points;
    using Function = bool (*)(const std::vector<NvDsInferLayerInfo>&, const NvDsInferNetworkInfo&, std::vector<float>&);
    if (!reinterpret_cast<Function>(found)(layers, network, points)) return 1;
    give(points.data(), points.size());
  } else if (function == "NvDsInferParseOnnxgraft") {
    std::vector<NvDsInferParseObjectInfo> objects;
    if (!reinterpret_cast<NvDsInferParseCustomFunc>(found)(layers, network, wanted, objects)) return 1;
    for (const auto& object : objects) head(object);
  } else {
    std::vector<NvDsInferInstanceMaskInfo> objects;
    if (!reinterpret_cast<NvDsInferInstanceMaskParseCustomFunc>(found)(layers, network, wanted, objects)) return 1;
    for (const auto& object : objects) {
      head(object);
      if (object.mask_size != object.mask_width * object.mask_height * sizeof(float)) return 4;
      give(object.mask, object.mask_size / sizeof(float));
      delete[] object.mask;
    }
  }
}
