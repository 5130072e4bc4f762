// Gives a configuration to nvinfer's own property parser, and prints what it read. Unknown keys are told on the error stream.
#include <cstring>
#include <iostream>

#include "gstnvinfer.h"
#include "gstnvinfer_property_parser.h"

extern const int DEFAULT_REINFER_INTERVAL;
const int DEFAULT_REINFER_INTERVAL = 90;

extern "C" int NvDsInferContext_SetDynamicProperty(NvDsInferContextInitParams*, const char*, const char*) {
  return 0;
}

// One GPU, so that the parser takes gpu-id=0 on a machine without any.
extern "C" cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
extern "C" cudaError_t cudaGetLastError() { return cudaSuccess; }
extern "C" const char* cudaGetErrorName(cudaError_t) { return ""; }

int main(int, char** words) {
  auto* element = static_cast<GstNvInfer*>(std::calloc(1, sizeof(GstNvInfer)));
  element->is_prop_set = new std::vector<gboolean>(PROP_LAST, FALSE);
  element->operate_on_class_ids = new std::vector<gboolean>;
  element->filter_out_class_ids = new std::set<uint>;
  static NvDsInferContextInitParams read;
  if (!gst_nvinfer_parse_config_file(element, &read, words[1])) return 1;
  std::cout << "onnx " << read.onnxFilePath << "\nengine " << read.modelEngineFilePath << "\nlabels " << read.labelsFilePath
            << "\nlibrary " << read.customLibPath << "\nmasks " << read.customBBoxInstanceMaskParseFuncName << "\nboxes "
            << read.customBBoxParseFuncName << "\nkind " << read.networkType << "\nformat " << read.networkInputFormat << "\norder "
            << read.netInputOrder << "\nbatch " << read.maxBatchSize << "\nclasses " << read.numDetectedClasses << "\nclustering "
            << read.clusterMode << "\nscale " << read.networkScaleFactor << "\ntyped " << read.useStronglyTyped << "\ndims "
            << read.inferInputDims.c << " " << read.inferInputDims.h << " " << read.inferInputDims.w << "\nkeeps shape "
            << element->maintain_aspect_ratio << " " << element->symmetric_padding << "\nattached " << element->output_tensor_meta
            << "\nmask threshold " << read.segmentationThreshold << "\noutputs";
  for (unsigned i = 0; i < read.numOutputLayers; ++i) std::cout << " " << read.outputLayerNames[i];
  std::cout << "\nthreshold " << read.perClassDetectionParams[0].preClusterThreshold << " " << read.perClassDetectionParams[0].topK << "\n";
}
