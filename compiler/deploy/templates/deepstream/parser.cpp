// What nvinfer calls with a network of onnxgraft: boxes, masks, and keypoints for a program of one's own.
// Boxes go to nvinfer in pixels of the network's input; it scales them to the frame. Outputs are found by name.
#include <algorithm>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "nvdsinfer_custom_impl.h"
#include "onnxgraft.hpp"
#include "settings.hpp"

namespace {

using Layers = std::vector<NvDsInferLayerInfo>;

const NvDsInferLayerInfo* find(const Layers& layers, const char* name, NvDsInferDataType type) {
  for (const NvDsInferLayerInfo& layer : layers)
    if (layer.layerName != nullptr && std::strcmp(layer.layerName, name) == 0) {
      if (layer.dataType == type && layer.buffer != nullptr) return &layer;
      std::cerr << "onnxgraft: output " << name << " has another type than this parser was written for\n";
      return nullptr;
    }
  return nullptr;
}

struct Found {
  int count = 0, limit = 0;
  const float* boxes = nullptr;
  const float* scores = nullptr;
  const std::int32_t* classes = nullptr;
};

bool read(const Layers& layers, Found& found) {
  const NvDsInferLayerInfo* count = find(layers, "num_detections", INT32);
  const NvDsInferLayerInfo* boxes = find(layers, "detection_boxes", FLOAT);
  const NvDsInferLayerInfo* scores = find(layers, "detection_scores", FLOAT);
  const NvDsInferLayerInfo* classes = find(layers, "detection_classes", INT32);
  if (!count || !boxes || !scores || (kClasses && !classes)) {
    std::cerr << "onnxgraft: the network does not give num_detections, detection_boxes, detection_scores and detection_classes: is it "
                 "another one, or does output-blob-names leave some out?\n";
    return false;
  }
  found.limit = static_cast<int>(scores->inferDims.numElements);
  found.count = std::clamp(static_cast<const std::int32_t*>(count->buffer)[0], 0, found.limit);
  found.boxes = static_cast<const float*>(boxes->buffer);
  found.scores = static_cast<const float*>(scores->buffer);
  found.classes = classes ? static_cast<const std::int32_t*>(classes->buffer) : nullptr;
  return true;
}

std::array<float, 4> box_of(const Found& found, int row, const NvDsInferNetworkInfo& network) {
  std::array<float, 4> box{};
  for (std::size_t k = 0; k < 4; ++k) {
    const auto side = static_cast<float>(k % 2 ? network.height : network.width);
    const float value = found.boxes[static_cast<std::size_t>(row) * 4 + k];
    box[k] = kNormalized ? value * side : value;
  }
  return box;
}

// Fills what boxes and masks have in common; false for a row that is not wanted.
template <typename T>
bool fill(const Found& found, int row, const NvDsInferNetworkInfo& network, const NvDsInferParseDetectionParams& wanted, T& object) {
  const std::int32_t label = found.classes ? found.classes[row] : 0;
  if (label < 0 || static_cast<unsigned>(label) >= wanted.numClassesConfigured) return false;
  const auto index = static_cast<std::size_t>(label);
  if (index < wanted.perClassPreclusterThreshold.size() && found.scores[row] < wanted.perClassPreclusterThreshold[index]) return false;
  const std::array<float, 4> box = box_of(found, row, network);
  object.classId = static_cast<unsigned>(label);
  object.left = box[0];
  object.top = box[1];
  object.width = box[2] - box[0];
  object.height = box[3] - box[1];
  object.detectionConfidence = found.scores[row];
  return object.width > 0 && object.height > 0;
}

}  // namespace

extern "C" bool NvDsInferParseOnnxgraft(const Layers& layers, const NvDsInferNetworkInfo& network, const NvDsInferParseDetectionParams& wanted,
                                        std::vector<NvDsInferParseObjectInfo>& objects) {
  Found found;
  if (!read(layers, found)) return false;
  for (int row = 0; row < found.count; ++row) {
    NvDsInferParseObjectInfo object{};
    if (fill(found, row, network, wanted, object)) objects.push_back(object);
  }
  return true;
}
CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseOnnxgraft);

extern "C" bool NvDsInferParseOnnxgraftMasks(const Layers& layers, const NvDsInferNetworkInfo& network,
                                             const NvDsInferParseDetectionParams& wanted, std::vector<NvDsInferInstanceMaskInfo>& objects) {
  Found found;
  const NvDsInferLayerInfo* masks = find(layers, "detection_masks", FLOAT);
  if (!read(layers, found)) return false;
  if (!masks || masks->inferDims.numDims != 3) {
    std::cerr << "onnxgraft: the network gives no detection_masks: take parse-bbox-func-name=NvDsInferParseOnnxgraft\n";
    return false;
  }
  const unsigned height = masks->inferDims.d[1], width = masks->inferDims.d[2];
  const std::size_t cells = static_cast<std::size_t>(height) * width;
  for (int row = 0; row < found.count; ++row) {
    NvDsInferInstanceMaskInfo object{};
    if (!fill(found, row, network, wanted, object)) continue;
    const float* mask = static_cast<const float*>(masks->buffer) + static_cast<std::size_t>(row) * cells;
    object.mask = new float[cells];  // nvinfer frees it with delete[]
    std::copy(mask, mask + cells, object.mask);
    object.mask_width = width;
    object.mask_height = height;
    object.mask_size = static_cast<unsigned>(cells * sizeof(float));
    objects.push_back(object);
  }
  return true;
}
CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(NvDsInferParseOnnxgraftMasks);

// nvinfer has no keypoints: a probe calls this with the layers of NvDsInferTensorMeta (output-tensor-meta=1). points: of each
// row of the network's detections K times x, y in pixels of the network's input, and score.
extern "C" bool OnnxgraftKeypoints(const Layers& layers, const NvDsInferNetworkInfo& network, std::vector<float>& points) {
  Found found;
  const NvDsInferLayerInfo* maps = find(layers, "detection_keypoint_heatmaps", FLOAT);
  if (!read(layers, found)) return false;
  if (!maps || maps->inferDims.numDims != 4) {
    std::cerr << "onnxgraft: the network gives no detection_keypoint_heatmaps\n";
    return false;
  }
  const unsigned keypoints = maps->inferDims.d[1], cells = maps->inferDims.d[2];
  const std::size_t size = static_cast<std::size_t>(cells) * cells;
  const float* map = static_cast<const float*>(maps->buffer);
  for (int row = 0; row < found.count; ++row)
    for (unsigned k = 0; k < keypoints; ++k, map += size) {
      const auto point = onnxgraft::keypoint(map, static_cast<int>(cells), box_of(found, row, network));
      points.insert(points.end(), point.begin(), point.end());
    }
  return true;
}
