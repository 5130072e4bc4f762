// Calls what the C++ package's header offers, for tests: words on the command line, raw values through the standard streams.
#include <cstdio>
#include <iostream>
#include <iterator>

#include "onnxgraft.hpp"

namespace {

template <typename T>
std::vector<T> taken(std::size_t count) {
  std::vector<T> values(count);
  if (count && std::fread(values.data(), sizeof(T), count, stdin) != count) throw std::runtime_error("the input ends early");
  return values;
}

template <typename T>
void give(const T* values, std::size_t count) {
  std::fwrite(values, sizeof(T), count, stdout);
}

std::array<float, 4> box() {
  const auto edges = taken<float>(4);
  return {edges[0], edges[1], edges[2], edges[3]};
}

}  // namespace

int main(int count, char** words) {
  const auto word = [&](int i) { return std::atoi(words[i]); };
  const std::string what = count > 1 ? words[1] : "";
  const onnxgraft::Size picture{word(2), word(3)};
  if (what == "place") {
    onnxgraft::Input input;
    input.canvas = {word(4), word(5)};
    input.shortest_edge = word(6), input.longest_edge = word(7), input.nhwc = word(8), input.rgb = word(9);
    input.area = {word(14), word(15)};
    for (std::size_t c = 0; c < 3; ++c) input.mean[c] = std::atof(words[11 + c]);
    const auto pixels = taken<std::uint8_t>(static_cast<std::size_t>(picture.height * picture.width * 3));
    const auto where = onnxgraft::plan(picture, input);
    const std::int32_t size[2] = {where.resized.height, where.resized.width};
    give(size, 2);
    const auto values = static_cast<std::size_t>(input.canvas.height * input.canvas.width * 3);
    std::vector<float> floats(values);
    std::vector<std::uint8_t> bytes(values);
    if (word(10)) onnxgraft::place(pixels.data(), where, input, bytes.data()), give(bytes.data(), values);
    else onnxgraft::place(pixels.data(), where, input, floats.data()), give(floats.data(), values);
  } else if (what == "paste") {
    const int cells = word(4);
    for (int i = 0; i < word(5); ++i) {
      const auto where = box();
      const auto mask = taken<float>(static_cast<std::size_t>(cells * cells));
      std::cout << onnxgraft::run_lengths(onnxgraft::paste(mask.data(), cells, where, picture), picture) << "\n";
    }
  } else if (what == "keypoints") {
    const int cells = word(4);
    for (int i = 0; i < word(5); ++i) {
      const auto where = box();
      const auto map = taken<float>(static_cast<std::size_t>(cells * cells));
      const auto point = onnxgraft::keypoint(map.data(), cells, where);
      give(point.data(), 3);
    }
  }
}
