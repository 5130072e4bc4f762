// SPDX-License-Identifier: Apache-2.0
// What stands before and after a network that onnxgraft built, in plain C++17: no library but the standard one is needed,
// so this file can be lifted out. Its numbers are those of `onnxgraft infer`, which are detectron2's: compile it without
// contraction of products and sums (-ffp-contract=off), or the last bit of a mask may differ.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace onnxgraft {

struct Size {
  int height = 0, width = 0;
  bool operator==(const Size& other) const { return height == other.height && width == other.width; }
};

// How a network wants its pictures. area: the part of the canvas that they must fit, all of it without one. mean: in the order of the input's channels. shortest_edge 0: pictures stay as they are.
struct Input {
  Size canvas, area;
  int batch = 1;
  bool nhwc = false, rgb = false;
  std::array<double, 3> mean{};
  int shortest_edge = 800, longest_edge = 1333;
};

// Where a picture lies on the canvas: at its top left, `resized` large.
struct Placement {
  Size original, resized, canvas;
  float scale_x() const { return static_cast<float>(static_cast<double>(original.width) / resized.width); }
  float scale_y() const { return static_cast<float>(static_cast<double>(original.height) / resized.height); }
};

// One detection in pixels of the picture. box: x1, y1, x2, y2, within the picture. mask_box: what its mask was predicted for.
// row: its row in the network's outputs. keypoints: x, y, score.
struct Detection {
  std::array<float, 4> box{}, mask_box{};
  float score = 0;
  int label = 0;
  std::size_t row = 0;
  std::vector<std::array<float, 3>> keypoints;
};

// A picture's outputs. classes, masks, heatmaps: nullptr where the network has none. normalized: boxes divided by the canvas.
struct Outputs {
  int count = 0;
  const float* boxes = nullptr;
  const float* scores = nullptr;
  const std::int32_t* classes = nullptr;
  const float* heatmaps = nullptr;
  int keypoints = 0, heatmap_cells = 0;
  bool normalized = true;
};

// The part of a picture that a mask can touch: bytes of 0 and 1, row by row.
struct Patch {
  int top = 0, left = 0, height = 0, width = 0;
  std::vector<std::uint8_t> pixels;
};

// -- in ---------------------------------------------------------------------------------------------------------

// detectron2's ResizeShortestEdge, and further down where that does not fit the canvas; a picture of its size stays.
inline Placement plan(Size picture, const Input& input) {
  if (picture.height < 1 || picture.width < 1) throw std::invalid_argument("a picture without pixels");
  const Size area = input.area == Size{} ? input.canvas : input.area;
  if (picture == area) return {picture, picture, input.canvas};
  Size size = picture;
  if (input.shortest_edge > 0) {
    const double edge = input.shortest_edge;
    const double scale = edge / std::min(picture.height, picture.width);
    const bool low = picture.height < picture.width;
    double height = low ? edge : scale * picture.height, width = low ? scale * picture.width : edge;
    if (std::max(height, width) > input.longest_edge) {
      const double smaller = input.longest_edge * 1.0 / std::max(height, width);
      height *= smaller;
      width *= smaller;
    }
    size = {std::max(1, static_cast<int>(height + 0.5)), std::max(1, static_cast<int>(width + 0.5))};
  }
  const double fit = std::min(static_cast<double>(area.height) / size.height, static_cast<double>(area.width) / size.width);
  if (fit < 1)
    size = {std::max(1, std::min(area.height, static_cast<int>(size.height * fit + 0.5))),
            std::max(1, std::min(area.width, static_cast<int>(size.width * fit + 0.5)))};
  return {picture, size, input.canvas};
}

namespace detail {

constexpr int kBits = 22;  // of the weights' fractions

struct Window {
  int first = 0;
  std::vector<int> weights;
};

// Triangle filter of one axis, as wide as the picture shrinks; weights in fixed point, as Pillow rounds them.
inline std::vector<Window> windows(int from, int to) {
  std::vector<Window> made(static_cast<std::size_t>(to));
  const double scale = static_cast<double>(from) / to, reach = std::max(scale, 1.0);
  for (int i = 0; i < to; ++i) {
    const double centre = (i + 0.5) * scale;
    const int low = std::max(0, static_cast<int>(centre - reach + 0.5));
    const int high = std::min(from, static_cast<int>(centre + reach + 0.5));
    std::vector<double> weights;
    double total = 0;
    for (int x = low; x < high; ++x) {
      const double distance = std::abs((x - centre + 0.5) * (1.0 / reach));
      weights.push_back(distance < 1 ? 1 - distance : 0);
      total += weights.back();
    }
    Window& window = made[static_cast<std::size_t>(i)];
    window.first = low;
    for (double weight : weights) {
      const double exact = (total != 0 ? weight / total : weight) * (1 << kBits);
      window.weights.push_back(static_cast<int>(exact + 0.5));
    }
  }
  return made;
}

inline std::uint8_t rounded(int sum) {
  return static_cast<std::uint8_t>(std::clamp((sum + (1 << (kBits - 1))) >> kBits, 0, 255));
}

// One rounding of a * b + c, from double.
inline float fused(float a, float b, float c) { return static_cast<float>(static_cast<double>(a) * b + c); }

}  // namespace detail

// Pillow's bilinear resize of [H, W, 3] bytes, bit for bit: columns first, then rows. Pillow 13 takes the rows first where a
// picture is more than about twice as tall as wide, which moves some of its pixels by one.
inline std::vector<std::uint8_t> resize(const std::uint8_t* pixels, Size from, Size to) {
  const auto row_bytes = [](int width) { return static_cast<std::size_t>(width) * 3; };
  std::vector<std::uint8_t> across(static_cast<std::size_t>(from.height) * row_bytes(to.width));
  if (from.width == to.width) {
    std::copy(pixels, pixels + across.size(), across.begin());
  } else {
    const auto columns = detail::windows(from.width, to.width);
    for (int y = 0; y < from.height; ++y) {
      const std::uint8_t* line = pixels + static_cast<std::size_t>(y) * row_bytes(from.width);
      std::uint8_t* out = across.data() + static_cast<std::size_t>(y) * row_bytes(to.width);
      for (const auto& window : columns) {
        int sums[3] = {0, 0, 0};
        const std::uint8_t* in = line + row_bytes(window.first);
        for (int weight : window.weights)
          for (int c = 0; c < 3; ++c) sums[c] += *in++ * weight;
        for (int sum : sums) *out++ = detail::rounded(sum);
      }
    }
  }
  if (from.height == to.height) return across;
  const auto rows = detail::windows(from.height, to.height);
  const std::size_t length = row_bytes(to.width);
  std::vector<std::uint8_t> made(static_cast<std::size_t>(to.height) * length);
  std::vector<int> sums(length);
  for (int y = 0; y < to.height; ++y) {
    const auto& window = rows[static_cast<std::size_t>(y)];
    std::fill(sums.begin(), sums.end(), 0);
    for (std::size_t k = 0; k < window.weights.size(); ++k) {
      const std::uint8_t* in = across.data() + (static_cast<std::size_t>(window.first) + k) * length;
      const int weight = window.weights[k];
      for (std::size_t x = 0; x < length; ++x) sums[x] += in[x] * weight;
    }
    std::uint8_t* out = made.data() + static_cast<std::size_t>(y) * length;
    for (std::size_t x = 0; x < length; ++x) out[x] = detail::rounded(sums[x]);
  }
  return made;
}

// Fills one image of the input, 3 * H * W values of float or uint8_t: the resized picture at the top left, the mean around.
// bgr: the picture, `where.original` large, row by row.
template <typename T>
void place(const std::uint8_t* bgr, const Placement& where, const Input& input, T* tensor) {
  const std::vector<std::uint8_t> resized = resize(bgr, where.original, where.resized);
  const auto height = static_cast<std::size_t>(where.canvas.height), width = static_cast<std::size_t>(where.canvas.width);
  for (std::size_t c = 0; c < 3; ++c) {
    double around = input.mean[c];
    if (std::is_integral<T>::value) around = std::clamp(std::nearbyint(around), 0.0, 255.0);
    const std::size_t channel = input.rgb ? 2 - c : c;
    for (std::size_t y = 0; y < height; ++y)
      for (std::size_t x = 0; x < width; ++x) {
        const bool on = y < static_cast<std::size_t>(where.resized.height) && x < static_cast<std::size_t>(where.resized.width);
        const std::size_t to = input.nhwc ? (y * width + x) * 3 + c : (c * height + y) * width + x;
        tensor[to] = on ? static_cast<T>(resized[(y * static_cast<std::size_t>(where.resized.width) + x) * 3 + channel])
                        : static_cast<T>(around);
      }
  }
}

// -- out --------------------------------------------------------------------------------------------------------

namespace detail {

struct Taps {
  std::vector<std::array<int, 4>> cells;
  std::vector<std::array<float, 4>> weights;
};

// torch's bicubic interpolation (a = -0.75, align_corners=False) of one axis, in float.
inline Taps cubic(int cells, int pixels) {
  const float a = -0.75f, scale = static_cast<float>(cells) / static_cast<float>(pixels);
  const auto inner = [a](float x) { return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f; };
  const auto outer = [a](float x) { return fused(a * x - 5.0f * a, x, 8.0f * a) * x - 4.0f * a; };
  Taps taps;
  for (int i = 0; i < pixels; ++i) {
    const float position = fused(static_cast<float>(i) + 0.5f, scale, -0.5f);
    const int low = std::min(static_cast<int>(std::floor(position)), cells - 1);
    const float t = std::clamp(position - static_cast<float>(low), 0.0f, 1.0f);
    taps.weights.push_back({outer(t + 1.0f), inner(t), inner(1.0f - t), outer(1.0f - t + 1.0f)});
    std::array<int, 4> around{};
    for (int k = 0; k < 4; ++k) around[static_cast<std::size_t>(k)] = std::clamp(low - 1 + k, 0, cells - 1);
    taps.cells.push_back(around);
  }
  return taps;
}

// The second product is rounded before the first is added to it, as torch's kernel does.
inline float sum(const std::array<float, 4>& v, const std::array<float, 4>& w) {
  return fused(v[3], w[3], fused(v[2], w[2], fused(v[0], w[0], v[1] * w[1])));
}

// Left cell and fraction of each pixel's centre of [start, stop) on a mask over [low, high].
inline void positions(int start, int stop, float low, float high, int cells, std::vector<int>& first, std::vector<float>& part) {
  for (int i = start; i < stop; ++i) {
    const float pixel = static_cast<float>(i) + 0.5f;
    const float grid = (pixel - low) / (high - low) * 2.0f - 1.0f;
    const float sum = grid + 1.0f;
    const auto wide = static_cast<float>(static_cast<double>(sum) * (cells / 2.0) - 0.5);
    const float position = std::isnan(wide) ? -2.0f : std::clamp(wide, -2.0f, static_cast<float>(cells + 1));
    first.push_back(static_cast<int>(std::floor(position)));
    part.push_back(position - std::floor(position));
  }
}

inline int bounded(float value, int limit) { return static_cast<int>(std::clamp(value, 0.0f, static_cast<float>(limit))); }

}  // namespace detail

// A heatmap's keypoint: x, y in pixels of the canvas, and its score. box: on the canvas.
inline std::array<float, 3> keypoint(const float* map, int cells, const std::array<float, 4>& box) {
  const auto n = static_cast<std::size_t>(cells);
  const std::array<float, 2> extent{std::max(box[2] - box[0], 1.0f), std::max(box[3] - box[1], 1.0f)};
  const std::array<float, 2> pixels{std::ceil(extent[0]), std::ceil(extent[1])};
  const auto columns = detail::cubic(cells, static_cast<int>(pixels[0]));
  const auto rows = detail::cubic(cells, static_cast<int>(pixels[1]));
  const std::size_t wide = columns.cells.size();
  std::vector<float> lines(n * wide);
  for (std::size_t y = 0; y < n; ++y)
    for (std::size_t x = 0; x < wide; ++x) {
      std::array<float, 4> values{};
      for (std::size_t k = 0; k < 4; ++k) values[k] = map[y * n + static_cast<std::size_t>(columns.cells[x][k])];
      lines[y * wide + x] = detail::sum(values, columns.weights[x]);
    }
  float top = -std::numeric_limits<float>::infinity();
  std::size_t best_x = 0, best_y = 0;
  for (std::size_t y = 0; y < rows.cells.size(); ++y)
    for (std::size_t x = 0; x < wide; ++x) {
      std::array<float, 4> values{};
      for (std::size_t k = 0; k < 4; ++k) values[k] = lines[static_cast<std::size_t>(rows.cells[y][k]) * wide + x];
      const float value = detail::sum(values, rows.weights[y]);
      if (value > top) top = value, best_x = x, best_y = y;
    }
  double total = 0;
  for (std::size_t i = 0; i < n * n; ++i) total += std::exp(map[i] - top);
  return {(static_cast<float>(best_x) + 0.5f) * (extent[0] / pixels[0]) + box[0],
          (static_cast<float>(best_y) + 0.5f) * (extent[1] / pixels[1]) + box[1], static_cast<float>(1 / total)};
}

// A picture's detections: rows that hold one, from the canvas to the picture, x and y by factors of their own; a box that is
// empty there is left out.
inline std::vector<Detection> detections(const Outputs& outputs, const Placement& where) {
  const std::array<float, 4> canvas{static_cast<float>(where.canvas.width), static_cast<float>(where.canvas.height),
                                    static_cast<float>(where.canvas.width), static_cast<float>(where.canvas.height)};
  const std::array<float, 4> scale{where.scale_x(), where.scale_y(), where.scale_x(), where.scale_y()};
  const float width = static_cast<float>(where.original.width), height = static_cast<float>(where.original.height);
  std::vector<Detection> found;
  for (int i = 0; i < outputs.count; ++i) {
    const auto row = static_cast<std::size_t>(i);
    std::array<float, 4> box{}, scaled{};
    Detection one;
    for (std::size_t k = 0; k < 4; ++k) {
      box[k] = outputs.normalized ? outputs.boxes[row * 4 + k] * canvas[k] : outputs.boxes[row * 4 + k];
      scaled[k] = box[k] * scale[k];
      const float limit = k % 2 ? height : width;
      one.box[k] = scaled[k] < 0 ? 0 : scaled[k] > limit ? limit : scaled[k];
    }
    if (!(one.box[2] > one.box[0] && one.box[3] > one.box[1])) continue;
    const bool in_padding = box[2] > static_cast<float>(where.resized.width) + 1e-3f ||
                            box[3] > static_cast<float>(where.resized.height) + 1e-3f;
    one.mask_box = in_padding ? scaled : one.box;
    one.score = outputs.scores[row];
    one.label = outputs.classes ? outputs.classes[row] : 0;
    one.row = row;
    for (int k = 0; outputs.heatmaps && k < outputs.keypoints; ++k) {
      const auto cells = static_cast<std::size_t>(outputs.heatmap_cells);
      const std::size_t map = (row * static_cast<std::size_t>(outputs.keypoints) + static_cast<std::size_t>(k)) * cells * cells;
      std::array<float, 3> point = keypoint(outputs.heatmaps + map, outputs.heatmap_cells, box);
      point[0] *= where.scale_x();
      point[1] *= where.scale_y();
      one.keypoints.push_back(point);
    }
    found.push_back(std::move(one));
  }
  return found;
}

// A mask of cells x cells probabilities over a box, as pixels of a picture: detectron2's paste, `>= threshold`.
inline Patch paste(const float* mask, int cells, const std::array<float, 4>& box, Size picture, float threshold = 0.5f) {
  for (float edge : box)
    if (!std::isfinite(edge)) return {};
  Patch patch;
  patch.left = detail::bounded(std::floor(box[0]) - 1, picture.width);
  patch.top = detail::bounded(std::floor(box[1]) - 1, picture.height);
  patch.width = detail::bounded(std::ceil(box[2]) + 1, picture.width) - patch.left;
  patch.height = detail::bounded(std::ceil(box[3]) + 1, picture.height) - patch.top;
  if (patch.width <= 0 || patch.height <= 0) return {};
  std::vector<int> x0, y0;
  std::vector<float> fx, fy;
  detail::positions(patch.left, patch.left + patch.width, box[0], box[2], cells, x0, fx);
  detail::positions(patch.top, patch.top + patch.height, box[1], box[3], cells, y0, fy);
  const auto at = [&](int y, int x) {
    return y < 0 || x < 0 || y >= cells || x >= cells
               ? 0.0f
               : mask[static_cast<std::size_t>(y) * static_cast<std::size_t>(cells) + static_cast<std::size_t>(x)];
  };
  patch.pixels.resize(y0.size() * x0.size());
  for (std::size_t i = 0; i < y0.size(); ++i)
    for (std::size_t j = 0; j < x0.size(); ++j) {
      const int y = y0[i], x = x0[j];
      const float south = 1.0f - fy[i], east = 1.0f - fx[j];
      float value = at(y, x) * (east * south);
      value = detail::fused(at(y, x + 1), fx[j] * south, value);
      value = detail::fused(at(y + 1, x), east * fy[i], value);
      value = detail::fused(at(y + 1, x + 1), fx[j] * fy[i], value);
      patch.pixels[i * x0.size() + j] = value >= threshold;
    }
  return patch;
}

// A pasted mask as the text of COCO's run lengths: runs of 0 and 1 in turn, column by column of the whole picture.
inline std::string run_lengths(const Patch& patch, Size picture) {
  std::vector<long> runs;
  long length = 0;
  bool set = false;
  const auto add = [&](bool value, long times) {
    if (times == 0) return;
    if (value != set) runs.push_back(length), length = 0, set = value;
    length += times;
  };
  add(false, static_cast<long>(patch.left) * picture.height);
  for (int x = 0; x < patch.width; ++x) {
    add(false, patch.top);
    for (int y = 0; y < patch.height; ++y)
      add(patch.pixels[static_cast<std::size_t>(y) * static_cast<std::size_t>(patch.width) + static_cast<std::size_t>(x)] != 0, 1);
    add(false, picture.height - patch.top - patch.height);
  }
  add(false, static_cast<long>(picture.width - patch.left - patch.width) * picture.height);
  runs.push_back(length);
  std::string text;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    long value = i > 2 ? runs[i] - runs[i - 2] : runs[i];
    for (bool more = true; more;) {
      long digit = value & 0x1f;
      value >>= 5;
      more = (digit & 0x10) ? value != -1 : value != 0;
      text += static_cast<char>((more ? digit | 0x20 : digit) + 48);
    }
  }
  return text;
}

}  // namespace onnxgraft
