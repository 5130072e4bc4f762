// Detections of pictures, as JSON and drawn: detect [--model FILE] [--json FILE] [--draw FOLDER] [--min-score S] PICTURE...
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "model.hpp"
#include "network.hpp"
#include "onnxgraft.hpp"

namespace {

struct Arguments {
  std::string model = MODEL_FILE, json, draw;
  double min_score = 0;
  std::vector<std::string> pictures;
};

struct Answer {
  std::string file;
  cv::Mat picture;
  onnxgraft::Size size;
  std::vector<onnxgraft::Detection> found;
  std::vector<onnxgraft::Patch> masks;
};

Arguments read(int count, char** words) {
  Arguments given;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const bool flag = word == "--model" || word == "--json" || word == "--draw" || word == "--min-score";
    if (flag && i + 1 == count) throw std::runtime_error(word + " needs a value");
    if (word == "--model") given.model = words[++i];
    else if (word == "--json") given.json = words[++i];
    else if (word == "--draw") given.draw = words[++i];
    else if (word == "--min-score") given.min_score = std::atof(words[++i]);
    else if (word.rfind("--", 0) == 0) throw std::runtime_error("unknown option " + word);
    else given.pictures.push_back(word);
  }
  if (given.pictures.empty())
    throw std::runtime_error("usage: detect [--model FILE] [--json FILE] [--draw FOLDER] [--min-score S] PICTURE...");
  return given;
}

cv::Mat picture(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  const cv::Mat pixels = bytes.empty() ? cv::Mat() : cv::imdecode(bytes, cv::IMREAD_COLOR);
  if (pixels.empty()) throw std::runtime_error(path + ": not a readable picture");
  return pixels;
}

template <typename T>
const T* rows(const Buffers& outputs, const Tensor* tensor, std::size_t image) {
  if (tensor == nullptr) return nullptr;
  const auto& bytes = outputs.at(tensor->name);
  return reinterpret_cast<const T*>(bytes.data() + bytes.size() / static_cast<std::size_t>(model::kInput.batch) * image);
}

const Tensor* output(const char* name) {
  for (const Tensor& tensor : model::outputs())
    if (tensor.name == name) return &tensor;
  return nullptr;
}

// One picture of a batch.
void answer(const Buffers& buffers, std::size_t image, const onnxgraft::Placement& where, double min_score, Answer& made) {
  onnxgraft::Outputs outputs;
  outputs.count = *rows<std::int32_t>(buffers, output("num_detections"), image);
  outputs.boxes = rows<float>(buffers, output("detection_boxes"), image);
  outputs.scores = rows<float>(buffers, output("detection_scores"), image);
  outputs.classes = rows<std::int32_t>(buffers, output("detection_classes"), image);
  outputs.normalized = model::kNormalized;
  if (const Tensor* heatmaps = output("detection_keypoint_heatmaps")) {
    outputs.heatmaps = rows<float>(buffers, heatmaps, image);
    outputs.keypoints = static_cast<int>(heatmaps->shape[2]);
    outputs.heatmap_cells = static_cast<int>(heatmaps->shape[3]);
  }
  const Tensor* masks = output("detection_masks");
  for (onnxgraft::Detection& one : onnxgraft::detections(outputs, where)) {
    if (one.score < min_score) continue;
    if (masks) {
      const auto cells = static_cast<std::size_t>(masks->shape.back());
      const float* mask = rows<float>(buffers, masks, image) + one.row * cells * cells;
      made.masks.push_back(onnxgraft::paste(mask, static_cast<int>(cells), one.mask_box, where.original));
    }
    made.found.push_back(std::move(one));
  }
}

std::vector<Answer> detect(Network& network, const std::vector<std::string>& files, double min_score) {
  const std::size_t image_bytes = bytes_of(model::inputs()[0]) / static_cast<std::size_t>(model::kInput.batch);
  Buffers feeds;
  for (const Tensor& tensor : model::inputs()) feeds[tensor.name].resize(bytes_of(tensor));
  std::vector<Answer> answers;
  std::vector<onnxgraft::Placement> placed;
  for (int i = 0; i < model::kInput.batch; ++i) {
    const auto at = static_cast<std::size_t>(i);
    std::uint8_t* image = feeds[model::inputs()[0].name].data() + at * image_bytes;
    if (at < files.size()) {
      Answer one{files[at], picture(files[at]), {}, {}, {}};
      one.size = {one.picture.rows, one.picture.cols};
      placed.push_back(onnxgraft::plan(one.size, model::kInput));
      if (model::inputs()[0].type == "uint8") onnxgraft::place(one.picture.data, placed.back(), model::kInput, image);
      else onnxgraft::place(one.picture.data, placed.back(), model::kInput, reinterpret_cast<float*>(image));
      answers.push_back(std::move(one));
    } else {  // the last picture fills the batch
      std::memcpy(image, image - image_bytes, image_bytes);
    }
    if (feeds.count("image_sizes")) {
      auto* size = reinterpret_cast<float*>(feeds["image_sizes"].data()) + at * 2;
      size[0] = static_cast<float>(placed.back().resized.height);
      size[1] = static_cast<float>(placed.back().resized.width);
    }
  }
  const Buffers outputs = network.run(feeds);
  for (std::size_t i = 0; i < answers.size(); ++i) answer(outputs, i, placed[i], min_score, answers[i]);
  return answers;
}

std::string name_of(int label) {
  const auto& names = model::class_names();
  const auto index = static_cast<std::size_t>(label);
  return label >= 0 && index < names.size() ? names[index] : std::to_string(label);
}

std::string quoted(const std::string& text) {
  std::string made = "\"";
  for (const char c : text) {
    char code[8];
    if (c == '"' || c == '\\') made += '\\', made += c;
    else if (static_cast<unsigned char>(c) < 0x20) std::snprintf(code, sizeof code, "\\u%04x", c), made += code;
    else made += c;
  }
  return made + '"';
}

std::string number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

template <typename F>
std::string list(std::size_t count, F&& entry) {
  std::string text = "[";
  for (std::size_t i = 0; i < count; ++i) text += (i ? "," : "") + entry(i);
  return text + "]";
}

// One picture as `onnxgraft infer --json` writes it.
std::string json(const Answer& answer) {
  const auto& found = answer.found;
  const auto numbers = [](const auto& values, int digits) {
    return list(values.size(), [&](std::size_t k) { return number(values[k], digits); });
  };
  std::string text = "{\"file\":" + quoted(answer.file);
  text += ",\"boxes\":" + list(found.size(), [&](std::size_t i) { return numbers(found[i].box, 4); });
  text += ",\"scores\":" + list(found.size(), [&](std::size_t i) { return number(found[i].score, 6); });
  text += ",\"classes\":" + list(found.size(), [&](std::size_t i) { return std::to_string(found[i].label); });
  if (!model::class_names().empty())
    text += ",\"names\":" + list(found.size(), [&](std::size_t i) { return quoted(name_of(found[i].label)); });
  if (output("detection_masks"))
    text += ",\"masks\":" + list(found.size(), [&](std::size_t i) {
              return "{\"size\":[" + std::to_string(answer.size.height) + "," + std::to_string(answer.size.width) +
                     "],\"counts\":" + quoted(onnxgraft::run_lengths(answer.masks[i], answer.size)) + "}";
            });
  if (output("detection_keypoint_heatmaps"))
    text += ",\"keypoints\":" + list(found.size(), [&](std::size_t i) {
              std::vector<float> flat;
              for (const auto& point : found[i].keypoints) flat.insert(flat.end(), point.begin(), point.end());
              return numbers(flat, 5);
            });
  return text + "}";
}

void draw(const Answer& answer, const std::string& folder) {
  cv::Mat drawn = answer.picture.clone();
  for (std::size_t i = 0; i < answer.found.size(); ++i) {
    const onnxgraft::Detection& one = answer.found[i];
    const int hue = one.label * 47 % 180;
    cv::Mat colour(1, 1, CV_8UC3, cv::Scalar(hue, 200, 255));
    cv::cvtColor(colour, colour, cv::COLOR_HSV2BGR);
    const cv::Vec3b bgr = colour.at<cv::Vec3b>(0, 0);
    if (i < answer.masks.size()) {
      const onnxgraft::Patch& patch = answer.masks[i];
      for (int y = 0; y < patch.height; ++y)
        for (int x = 0; x < patch.width; ++x)
          if (patch.pixels[static_cast<std::size_t>(y * patch.width + x)]) {
            auto& pixel = drawn.at<cv::Vec3b>(patch.top + y, patch.left + x);
            for (int c = 0; c < 3; ++c) pixel[c] = static_cast<std::uint8_t>((pixel[c] + bgr[c]) / 2);
          }
    }
    const cv::Scalar line(bgr[0], bgr[1], bgr[2]);
    const cv::Point low(cvRound(one.box[0]), cvRound(one.box[1])), high(cvRound(one.box[2]), cvRound(one.box[3]));
    cv::rectangle(drawn, low, high, line, 2);
    for (const auto& point : one.keypoints) cv::circle(drawn, {cvRound(point[0]), cvRound(point[1])}, 2, line, cv::FILLED);
    cv::putText(drawn, name_of(one.label) + " " + number(one.score, 2), {low.x, std::max(12, low.y - 4)}, cv::FONT_HERSHEY_SIMPLEX, 0.45,
                line, 1, cv::LINE_AA);
  }
  const auto path = std::filesystem::path(folder) / (std::filesystem::path(answer.file).stem().string() + ".png");
  std::filesystem::create_directories(folder);
  if (!cv::imwrite(path.string(), drawn)) throw std::runtime_error(path.string() + ": cannot be written");
}

void run(const Arguments& given) {
  const auto network = open_network(given.model, model::inputs(), model::outputs());
  std::ofstream file;
  if (!given.json.empty()) {
    file.open(given.json);
    if (!file) throw std::runtime_error(given.json + ": cannot be written");
  }
  std::string before = "[\n";
  const auto batch = static_cast<std::size_t>(model::kInput.batch);
  for (std::size_t i = 0; i < given.pictures.size(); i += batch) {
    const auto first = given.pictures.begin() + static_cast<long>(i);
    const std::vector<std::string> files(first, first + static_cast<long>(std::min(batch, given.pictures.size() - i)));
    for (const Answer& answer : detect(*network, files, given.min_score)) {
      std::cout << answer.file << ": " << answer.found.size() << " detections\n";
      if (file.is_open()) file << before << json(answer);
      before = ",\n";
      if (!given.draw.empty()) draw(answer, given.draw);
    }
  }
  if (file.is_open()) file << "\n]\n";
}

}  // namespace

int main(int count, char** words) {
  try {
    run(read(count, words));
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
