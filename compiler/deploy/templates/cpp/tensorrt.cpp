// The network as an engine of TensorRT (8.6 and later, or TensorRT for RTX), through its C++ API.
#include <NvInfer.h>
#ifndef WITHOUT_PLUGINS
#include <NvInferPlugin.h>
#endif
#include <cuda_runtime_api.h>

#include <fstream>
#include <iostream>
#include <iterator>

#include "network.hpp"

namespace {

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    last = message;
    last = last.substr(0, last.find('\n'));
  }
  std::string last;
};

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

std::string name_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return "float32";
    case nvinfer1::DataType::kINT32: return "int32";
    case nvinfer1::DataType::kUINT8: return "uint8";
    default: return "another type";
  }
}

class TensorRT : public Network {
 public:
  TensorRT(const std::string& file, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs)
      : inputs_(inputs), outputs_(outputs) {
    int devices = 0;  // without a driver TensorRT does not fail, it crashes
    check(cudaGetDeviceCount(&devices), "no GPU that CUDA can use");
    std::ifstream stream(file, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    if (bytes.empty()) throw std::runtime_error(file + ": cannot be read, or is empty");
#ifndef WITHOUT_PLUGINS
    if (!initLibNvInferPlugins(&logger_, "")) throw std::runtime_error("TensorRT's plugins cannot be loaded: " + logger_.last);
#endif
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (!engine_)
      throw std::runtime_error(file + ": TensorRT does not take this engine, which fits one version and GPU (" + logger_.last + ")");
    context_.reset(engine_->createExecutionContext());
    if (!context_) throw std::runtime_error(file + ": no room to run this engine (" + logger_.last + ")");
    check(cudaStreamCreate(&stream_), "no CUDA stream");
    for (const auto* tensors : {&inputs_, &outputs_})
      for (const Tensor& tensor : *tensors) {
        expect(file, tensor, told_by_engine(file, tensor.name));
        check(cudaMalloc(&device_[tensor.name], bytes_of(tensor)), "no memory on the GPU");
        context_->setTensorAddress(tensor.name.c_str(), device_[tensor.name]);
      }
  }

  ~TensorRT() override {
    for (auto& [name, memory] : device_) cudaFree(memory);
    if (stream_) cudaStreamDestroy(stream_);
  }

  Buffers run(const Buffers& feeds) override {
    for (const Tensor& tensor : inputs_)
      check(cudaMemcpyAsync(device_[tensor.name], feeds.at(tensor.name).data(), bytes_of(tensor), cudaMemcpyHostToDevice, stream_), "copy");
    if (!context_->enqueueV3(stream_)) throw std::runtime_error("TensorRT failed: " + logger_.last);
    Buffers made;
    for (const Tensor& tensor : outputs_) {
      made[tensor.name].resize(bytes_of(tensor));
      check(cudaMemcpyAsync(made[tensor.name].data(), device_[tensor.name], bytes_of(tensor), cudaMemcpyDeviceToHost, stream_), "copy");
    }
    check(cudaStreamSynchronize(stream_), "TensorRT failed");
    return made;
  }

 private:
  Tensor told_by_engine(const std::string& file, const std::string& name) {
    for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
      if (name != engine_->getIOTensorName(i)) continue;
      const nvinfer1::Dims dims = engine_->getTensorShape(name.c_str());
      return {name, std::vector<std::int64_t>(dims.d, dims.d + dims.nbDims), name_of(engine_->getTensorDataType(name.c_str()))};
    }
    throw std::runtime_error(file + ": has no " + name + ", so it is not the network that this program was made for");
  }

  std::vector<Tensor> inputs_, outputs_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::map<std::string, void*> device_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace

std::unique_ptr<Network> open_network(const std::string& file, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
  return std::make_unique<TensorRT>(file, inputs, outputs);
}
