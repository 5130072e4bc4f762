// The network in ONNX Runtime, through its C API.
#include <onnxruntime_c_api.h>

#include "network.hpp"

namespace {

const OrtApi* api = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message.substr(0, message.find('\n')));
}

std::string name_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    default: return "another type";
  }
}

ONNXTensorElementDataType type_of(const Tensor& tensor) {
  if (tensor.type == "uint8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  return tensor.type == "int32" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

class OnnxRuntime : public Network {
 public:
  OnnxRuntime(const std::string& file, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs)
      : inputs_(inputs), outputs_(outputs) {
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "detect", &env_));
    check(api->CreateSessionOptions(&options_));
    check(api->CreateSession(env_, std::basic_string<ORTCHAR_T>(file.begin(), file.end()).c_str(), options_, &session_));
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_));
    check(api->GetAllocatorWithDefaultOptions(&allocator_));
    for (const Tensor& tensor : inputs) expect(file, tensor, told_by_file(file, tensor.name, true));
    for (const Tensor& tensor : outputs) expect(file, tensor, told_by_file(file, tensor.name, false));
  }

  ~OnnxRuntime() override {
    if (memory_) api->ReleaseMemoryInfo(memory_);
    if (session_) api->ReleaseSession(session_);
    if (options_) api->ReleaseSessionOptions(options_);
    if (env_) api->ReleaseEnv(env_);
  }

  Buffers run(const Buffers& feeds) override {
    std::vector<const char*> taken, given;
    Values in(inputs_.size()), out(outputs_.size());
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const Tensor& tensor = inputs_[i];
      const std::vector<std::uint8_t>& bytes = feeds.at(tensor.name);
      check(api->CreateTensorWithDataAsOrtValue(memory_, const_cast<std::uint8_t*>(bytes.data()), bytes.size(), tensor.shape.data(),
                                                tensor.shape.size(), type_of(tensor), &in.held[i]));
      taken.push_back(tensor.name.c_str());
    }
    for (const Tensor& tensor : outputs_) given.push_back(tensor.name.c_str());
    check(api->Run(session_, nullptr, taken.data(), in.held.data(), taken.size(), given.data(), given.size(), out.held.data()));
    Buffers made;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      void* data = nullptr;
      check(api->GetTensorMutableData(out.held[i], &data));
      const auto* first = static_cast<const std::uint8_t*>(data);
      made[outputs_[i].name].assign(first, first + bytes_of(outputs_[i]));
    }
    return made;
  }

 private:
  struct Values {
    explicit Values(std::size_t count) : held(count, nullptr) {}
    ~Values() {
      for (OrtValue* value : held)
        if (value) api->ReleaseValue(value);
    }
    std::vector<OrtValue*> held;
  };

  // A tensor as the file has it.
  Tensor told_by_file(const std::string& file, const std::string& name, bool input) {
    std::size_t count = 0;
    check(input ? api->SessionGetInputCount(session_, &count) : api->SessionGetOutputCount(session_, &count));
    for (std::size_t i = 0; i < count; ++i) {
      char* text = nullptr;
      check(input ? api->SessionGetInputName(session_, i, allocator_, &text) : api->SessionGetOutputName(session_, i, allocator_, &text));
      const std::string found = text;
      check(api->AllocatorFree(allocator_, text));
      if (found != name) continue;
      OrtTypeInfo* kind = nullptr;
      check(input ? api->SessionGetInputTypeInfo(session_, i, &kind) : api->SessionGetOutputTypeInfo(session_, i, &kind));
      const OrtTensorTypeAndShapeInfo* info = nullptr;
      check(api->CastTypeInfoToTensorInfo(kind, &info));
      ONNXTensorElementDataType type{};
      std::size_t rank = 0;
      check(api->GetTensorElementType(info, &type));
      check(api->GetDimensionsCount(info, &rank));
      Tensor tensor{name, std::vector<std::int64_t>(rank), name_of(type)};
      check(api->GetDimensions(info, tensor.shape.data(), rank));
      api->ReleaseTypeInfo(kind);
      return tensor;
    }
    throw std::runtime_error(file + ": has no " + name + ", so it is not the network that this program was made for");
  }

  std::vector<Tensor> inputs_, outputs_;
  OrtEnv* env_ = nullptr;
  OrtSessionOptions* options_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  OrtAllocator* allocator_ = nullptr;
};

}  // namespace

std::unique_ptr<Network> open_network(const std::string& file, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr)
    throw std::runtime_error(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " is older than the header that " +
                             "this program was built with (API " + std::to_string(ORT_API_VERSION) + ")");
  return std::make_unique<OnnxRuntime>(file, inputs, outputs);
}
