"""Exports of real detectors that differ from the zoo's, with PyTorch's own answers beside them."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import OnnxgraftError
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.targets import OrtRunner

CASES = Path(__file__).parent.parent / "data" / "cases"


def build(name: str, folder: Path, **options: object) -> Path:
    """Compile a case; its `model.onnx`."""
    raw, made = folder / f"{name}.onnx", folder / "model.onnx"
    raw.write_bytes(lzma.decompress((CASES / f"{name}.onnx.xz").read_bytes()))
    graph = Graph.load(raw)
    steps = default_pipeline(CompileOptions(boxes="pixels", **options), "onnxruntime").passes  # type: ignore[arg-type]
    PassManager(steps, fingerprints=False).run(graph, Context())
    graph.save(made)
    return made


def rows(outputs: dict[str, np.ndarray], row: int) -> Detections:
    count = int(outputs["num_detections"][row, 0])
    boxes, scores, classes = (outputs[f"detection_{what}"][row, :count] for what in ("boxes", "scores", "classes"))
    return Detections.of(boxes, scores, classes, None)


def truth(name: str) -> tuple[np.ndarray, Detections]:
    """The picture, float32 [3, H, W], and PyTorch's detections of it."""
    stored = np.load(CASES / f"{name}.npz")
    picture = stored["image"].transpose(2, 0, 1).astype(np.float32)
    return picture, Detections.of(stored["boxes"], stored["scores"], stored["classes"], None)


def test_a_stem_keeps_the_pad_of_its_own(tmp_path: Path) -> None:
    picture, expected = truth("stem_zeropad_c4")
    outputs = OrtRunner(build("stem_zeropad_c4", tmp_path, size=(320, 320)))({"input_tensor": picture[None]})
    assert match(expected, rows(outputs, 0)).matched == len(expected) == 100


def test_pictures_of_a_batch_upsampled_to_sizes_are_each_right(tmp_path: Path) -> None:
    picture, expected = truth("batch2_interpolate_size")
    other = np.ascontiguousarray(picture[:, ::-1, ::-1])
    run = OrtRunner(build("batch2_interpolate_size", tmp_path, size=(320, 320), batch=2))
    outputs = run({"input_tensor": np.stack([other, picture])})
    assert match(expected, rows(outputs, 1)).matched == len(expected) == 100
    assert match(expected, rows(outputs, 0)).matched < 50


def test_a_size_that_the_detector_would_pad_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxgraftError, match="height 330 is not a multiple of 32"):
        build("stem_zeropad_c4", tmp_path, size=(330, 320))


def test_a_neck_that_upsamples_bilinearly_does_not_see_the_canvas(tmp_path: Path) -> None:
    picture, expected = truth("exact_padding_bilinear_neck")
    run = OrtRunner(build("exact_padding_bilinear_neck", tmp_path, size=(320, 320), exact_padding=True))
    canvas = np.zeros((1, 3, 320, 320), np.float32)
    canvas[0, :, :224, :288] = picture
    outputs = run({"input_tensor": canvas, "image_sizes": np.array([[224, 288]], np.float32)})
    assert match(expected, rows(outputs, 0)).matched == len(expected) == 100
