"""A build directory answers for images. The graph here is a stand-in that reports what it was fed:
each image gives one detection whose box is the input's size in the canvas and whose score is the
image's first value / 255."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image

from onnxgraft.errors import InputError, TargetError
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.runtime.session import Session, built_by_another

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
echo (float[2, 3, 64, 96] input_tensor, float[2, 2] image_sizes)
  => (int32[2, 1] num_detections, float[2, 2, 4] detection_boxes, float[2, 2] detection_scores,
      int32[2, 2] detection_classes, float[2, 2, 28, 28] detection_masks)
<int32[2, 1] ones = {1, 1}, int64[3] halves = {1, 1, 0}, int64[1] corner = {1},
 float[2, 2] zero = {0, 0, 0, 0}, float[2, 2] canvas = {64, 96, 64, 96}, int32[2, 2] four = {4, 0, 4, 0},
 int64[4] at = {0, 0, 0, 0}, int64[4] end = {2, 1, 1, 1}, float full = {255}, int64[2] flat = {2, 1},
 int64[4] pads = {0, 0, 0, 1}, int64[6] pads3 = {0, 0, 0, 0, 1, 0}, int64[3] box = {2, 1, 4},
 int64[1] axis = {1}, int64[1] last = {1}, int64[1] first = {0}, int64[1] two = {2},
 int64[4] masks_shape = {2, 2, 28, 28}>
{
  num_detections = Identity(ones)
  share = Div(image_sizes, canvas)
  h = Slice(share, first, corner, axis)
  w = Slice(share, corner, two, axis)
  xyxy = Concat<axis = 1>(zero, w, h)
  rows = Reshape(xyxy, box)
  detection_boxes = Pad(rows, pads3)
  pixel = Slice(input_tensor, at, end)
  value = Reshape(pixel, flat)
  score = Div(value, full)
  detection_scores = Pad(score, pads)
  detection_classes = Identity(four)
  detection_masks = ConstantOfShape<value = float[1] {0.75}>(masks_shape)
}
"""


@pytest.fixture
def build(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(GRAPH), tmp_path / "model.onnx")
    write_manifest(tmp_path)
    return tmp_path


def write_manifest(folder: Path, **changes: Any) -> None:
    manifest: dict[str, Any] = {
        "runnable": "model.onnx",
        "target": "onnxruntime",
        "io": {
            "input": {
                "name": "input_tensor",
                "shape": [2, 3, 64, 96],
                "dtype": "float32",
                "layout": "NCHW",
                "order": "BGR",
            },
            "image_sizes": True,
            "boxes": "normalized",
        },
        "preprocess": {
            "mean": [10, 20, 30],
            "std": [1, 1, 1],
            "order": "BGR",
            "shortest_edge": 32,
            "longest_edge": 64,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def pictures(folder: Path) -> list[Path]:
    """Three images of one colour each: blue is 51, 102, 153; sizes (h, w) 80x100, 64x96, 50x200."""
    paths = []
    for i, (height, width) in enumerate([(80, 100), (64, 96), (50, 200)]):
        rgb = np.full((height, width, 3), (7, 8, 51 * (i + 1)), np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(rgb).save(paths[-1])
    return paths


def test_batches_are_filled_up_and_answers_stay_in_order(build: Path) -> None:
    paths = pictures(build)
    found = list(Session(build).run(paths))
    assert [r.file for r in found] == paths
    # the third is alone in its batch; each score shows which image the network saw
    assert [len(r.found) for r in found] == [1, 1, 1]
    np.testing.assert_allclose([r.raw.scores[0] for r in found], [0.2, 0.4, 0.6], rtol=1e-6)
    assert [r.placement.resized for r in found] == [(32, 40), (64, 96), (16, 64)]


def test_boxes_come_back_in_the_original_image(build: Path) -> None:
    """The stand-in's box is the region that image_sizes gives: the whole original image."""
    for result, (height, width) in zip(
        Session(build).run(pictures(build)), [(80, 100), (64, 96), (50, 200)], strict=True
    ):
        np.testing.assert_allclose(result.found.detections.boxes, [[0, 0, width, height]], rtol=1e-5)
        pasted = result.found.pasted()
        assert pasted is not None
        assert pasted.shape == (1, height, width)
        assert pasted.mean() > 0.95


def test_arrays_and_another_rule(build: Path) -> None:
    image = np.full((80, 100, 3), 51, np.uint8)
    (result,) = Session(build, rule=ResizeRule(16, 64)).run([image])
    assert (result.file, result.placement.resized) == (None, (16, 20))


def test_the_mean_follows_the_inputs_channel_order(build: Path) -> None:
    manifest = json.loads((build / "manifest.json").read_text())
    manifest["io"]["input"]["order"] = "RGB"
    write_manifest(build, io=manifest["io"])
    session = Session(build)
    tensor, _ = session.place(np.full((80, 100, 3), (1, 2, 3), np.uint8))
    assert tensor[:, 0, 0].tolist() == [3, 2, 1]
    assert tensor[:, -1, -1].tolist() == [30, 20, 10]
    assert session.feeds([session.place(np.zeros((8, 8, 3), np.uint8))])["image_sizes"].shape == (2, 2)


def test_without_an_engine_runtime_it_says_so(build: Path) -> None:
    assert Session(build).notice == ""
    (build / "model.engine").write_bytes(b"not an engine")
    write_manifest(build, target="tensorrt-rtx", engine="model.engine")
    session = Session(build)
    assert "ONNX Runtime runs model.onnx instead, the same graph" in session.notice
    assert "\n" not in session.notice
    assert len(list(session.run(pictures(build)))) == 3
    assert Session(build, engine="onnxruntime").notice == ""
    with pytest.raises(TargetError, match="the engine cannot run here"):
        Session(build, engine="required")


def test_an_unreadable_image_is_named(build: Path) -> None:
    (build / "bad.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"bad\.jpg: not a readable image"):
        list(Session(build).run([build / "bad.jpg"]))


def test_folders_that_hold_no_build(build: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no build"):
        Session(tmp_path / "absent")
    (build / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: no manifest: not JSON, or truncated .*; build it again$"):
        Session(build)
    for content, reason in (
        ({"io": {}, "preprocess": {}}, "'runnable' is missing"),
        ({"runnable": "model.onnx", "preprocess": {}}, "'io' is missing"),
        ({"runnable": "m.onnx", "io": {"input": {"name": "x", "shape": [1, "a"]}}},
         r"io\.input\.shape\[1\] is 'a', expected int"),
        ({"runnable": "model.onnx", "io": {"boxes": "inches"}}, "io.boxes is 'inches', expected"),
        ({"runnable": 7}, "runnable is '7', expected str"),
        ([], "its content is"),
    ):
        (build / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"^{build}/manifest.json: {reason}.*; build it again$"):
            Session(build)
    write_manifest(build, io={})
    with pytest.raises(InputError, match="passes stopped before normalize-input"):
        Session(build)
    write_manifest(build, runnable="gone.onnx")
    with pytest.raises(InputError, match=r"gone\.onnx"):
        Session(build)
    (build / "broken.onnx").write_bytes(b"nothing")
    write_manifest(build, runnable="broken.onnx")
    with pytest.raises(TargetError, match=r"broken\.onnx"):
        Session(build)


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({}, "input input_tensor is missing"),
        ({"input_tensor": np.zeros((2, 3, 64, 96), np.uint8)},
         "input 'input_tensor' is uint8 [2, 3, 64, 96], the network takes float32 [2, 3, 64, 96]"),
        ({"input_tensor": np.zeros((1, 3, 64, 96), np.float32)},
         "input 'input_tensor' is float32 [1, 3, 64, 96], the network takes float32 [2, 3, 64, 96]"),
        ({"input_tensor": np.zeros((2, 3, 64, 96))},
         "input 'input_tensor' is float64 [2, 3, 64, 96], the network takes float32 [2, 3, 64, 96]"),
    ],
)  # fmt: skip
def test_what_is_no_input_of_the_network_is_named(build: Path, feeds: dict[str, Any], reason: str) -> None:
    session = Session(build)
    sizes = {"image_sizes": np.zeros((2, 2), np.float32)} if feeds else {}
    with pytest.raises(InputError) as refused:
        session.run_feeds({**feeds, **sizes})
    assert str(refused.value).startswith(reason)


def test_an_engine_of_another_version_is_told_apart(build: Path) -> None:
    manifest = Session(build).manifest
    assert built_by_another(manifest, "tensorrt 11.4.0.106") == ""
    other = replace(manifest, engine_info={"module": "tensorrt 10.3.0"})
    words = built_by_another(other, "tensorrt 11.4.0.106")
    assert words.startswith("; it was built by tensorrt 10.3.0, and tensorrt 11.4.0.106 is here")
    assert built_by_another(other, "tensorrt 10.3.0") == ""
