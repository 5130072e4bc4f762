"""normalize-input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers.stages import Stages, detect, run_unordered, same

from onnxgraft.errors import InputError
from onnxgraft.instruments.stage import stage_detections
from onnxgraft.manifest import ImageIO
from onnxgraft.passes import NormalizeInput
from onnxgraft.targets import OrtRunner


def test_fires_and_changes_no_detection(stages: Stages) -> None:
    assert stages.report["normalize-input"].changed
    assert len(stages.detections("fix-input")) > 10
    assert same(stages.detections("fix-input"), stages.detections("normalize-input")) is None


def test_the_graph_reads_the_picture_and_subtracts_the_mean(stages: Stages) -> None:
    graph, ctx = stages.after_pass("normalize-input")
    (image,) = graph.gs.inputs
    assert (image.name, image.dtype, image.shape) == ("input_tensor", np.float32, [1, 3, 256, 320])
    (sub,) = image.outputs
    assert sub.op == "Sub"
    np.testing.assert_allclose(sub.inputs[1].values.ravel(), [103.53, 116.28, 123.675], rtol=1e-6)
    assert sub.outputs[0].outputs[0].op == "Conv"  # a std of one needs no division
    assert ctx.io.input == ImageIO("input_tensor", (1, 3, 256, 320), "float32", "NCHW", "BGR")


@pytest.mark.parametrize(
    ("step", "shape", "dtype"),
    [
        (NormalizeInput(order="RGB"), [1, 3, 256, 320], np.float32),
        (NormalizeInput(dtype="uint8"), [1, 3, 256, 320], np.uint8),
        (NormalizeInput(layout="NHWC"), [1, 256, 320, 3], np.float32),
        (NormalizeInput(order="RGB", layout="NHWC", dtype="uint8"), [1, 256, 320, 3], np.uint8),
        (NormalizeInput(order="BGR"), [1, 3, 256, 320], np.float32),
    ],
)
def test_other_inputs_give_the_same_detections(
    step: NormalizeInput, shape: list[int], dtype: type, stages: Stages, tmp_path: Path
) -> None:
    graph, ctx = stages.before_pass("normalize-input")
    run_unordered([step], graph, ctx)
    (image,) = graph.gs.inputs
    assert (image.shape, image.dtype) == (shape, dtype)
    assert same(stages.detections("fix-input"), detect(graph, ctx, stages.image, tmp_path)) is None


def test_the_order_matters(stages: Stages, tmp_path: Path) -> None:
    """The test above could not fail if the detector did not care for colours."""
    flipped = np.ascontiguousarray(stages.image[..., ::-1])
    graph, ctx = stages.after_pass("normalize-input")
    assert same(stages.detections("fix-input"), detect(graph, ctx, flipped, tmp_path)) is not None


def test_a_std_is_divided_by(stages: Stages, tmp_path: Path) -> None:
    """A detector with std 57 on an image stretched by 57 around the mean sees what one with std 1 sees."""
    graph, ctx = stages.before_pass("normalize-input")
    spec = ctx.spec()
    ctx.detector = dataclasses.replace(spec, image=dataclasses.replace(spec.image, std=(2.0, 4.0, 0.5)))
    run_unordered([NormalizeInput()], graph, ctx)
    graph.save(tmp_path / "std.onnx")
    mean = np.array(spec.image.mean, np.float32).reshape(3, 1, 1)
    image = stages.image.transpose(2, 0, 1).astype(np.float32)
    stretched = (image - mean) * np.array([2.0, 4.0, 0.5], np.float32).reshape(3, 1, 1) + mean
    found = stage_detections(OrtRunner(tmp_path / "std.onnx")({"input_tensor": stretched[None]}), ctx)
    assert same(stages.detections("fix-input"), found, px=0.02, score=1e-3, mask=0.01) is None


def test_image_sizes_of_a_full_canvas_change_nothing(stages: Stages, tmp_path: Path) -> None:
    graph, ctx, _ = stages.go_on("normalize-input", "normalize-input{image-sizes=true}")
    assert [(t.name, t.shape) for t in graph.gs.inputs][1] == ("image_sizes", [1, 2])
    assert same(stages.detections("name-outputs"), detect(graph, ctx, stages.image, tmp_path)) is None


def test_image_sizes_hide_what_lies_outside_and_clip_there(stages: Stages, tmp_path: Path) -> None:
    graph, ctx, _ = stages.go_on("normalize-input", "normalize-input{image-sizes=true}")
    graph.save(tmp_path / "sizes.onnx")
    runner = OrtRunner(tmp_path / "sizes.onnx")
    height, width = 200, 230

    def run(outside: float) -> object:
        image = np.full((1, 3, 256, 320), outside, np.float32)
        image[..., :height, :width] = stages.image.transpose(2, 0, 1)[:, :height, :width]
        return stage_detections(
            runner({"input_tensor": image, "image_sizes": np.array([[height, width]], np.float32)}), ctx
        )

    a, b = run(0.0), run(255.0)
    assert len(a) > 5
    assert same(a, b, px=0, score=0, mask=0) is None
    assert a.boxes[:, [0, 2]].max() <= width
    assert a.boxes[:, [1, 3]].max() <= height
    assert a.boxes[:, 2].max() > width - 1  # the crop cuts through shapes, so the bound is reached


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"order": "GBR"}, "{order}: 'GBR' is not one of model, BGR, RGB"),
        ({"layout": "CHW"}, "{layout}: 'CHW' is not one of NCHW, NHWC"),
        ({"dtype": "float16"}, "{dtype}: 'float16' is not one of float32, uint8"),
    ],
)
def test_unknown_inputs_are_refused(options: dict[str, str], reason: str) -> None:
    with pytest.raises(InputError) as refused:
        NormalizeInput(**options)  # type: ignore[arg-type]
    assert str(refused.value) == f"normalize-input{reason}"
