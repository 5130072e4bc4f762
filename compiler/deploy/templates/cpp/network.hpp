// What runs the network: onnxruntime.cpp or tensorrt.cpp, whichever the program was built with.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string type;  // float32, int32, uint8
};

inline std::size_t bytes_of(const Tensor& tensor) {
  std::size_t count = tensor.type == "uint8" ? 1 : 4;
  for (std::int64_t side : tensor.shape) count *= static_cast<std::size_t>(side);
  return count;
}

inline std::string told(const Tensor& tensor) {
  std::string text = tensor.type + " [";
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

// Raises runtime_error, one line, where a file's tensor is not the one that this program was made for.
inline void expect(const std::string& file, const Tensor& wanted, const Tensor& found) {
  if (wanted.shape != found.shape || wanted.type != found.type)
    throw std::runtime_error(file + ": " + wanted.name + " is " + told(found) + ", and this program was made for " + told(wanted) +
                             ": package that build anew");
}

using Buffers = std::map<std::string, std::vector<std::uint8_t>>;

class Network {
 public:
  virtual ~Network() = default;
  // Bytes of each output by name, for the bytes of each input by name.
  virtual Buffers run(const Buffers& inputs) = 0;
};

// Raises runtime_error, one line.
std::unique_ptr<Network> open_network(const std::string& file, const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs);
