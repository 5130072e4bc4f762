"""mask-padding: an image gives the same answers on a large canvas as on one of its own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError, PassError
from onnxgraft.golden import references
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes import MaskPadding
from onnxgraft.passes.default import default_pipeline
from onnxgraft.passes.mask_padding import _trunk
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.feeds import stage_detections
from onnxgraft.targets import OrtRunner

TRUE = (236, 300)  # of the image; 256 x 320 is what detectron2 pads it to


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A drawn image of the true size, uint8 BGR."""
    return references.shapes().draw(3_000_000_001, TRUE)[0]


def detect(model: Path, folder: Path, picture: np.ndarray, canvas: tuple[int, int], exact: bool, target: str) -> Detections:
    options = CompileOptions(height=canvas[0], width=canvas[1], image_sizes=True, exact_padding=exact)
    graph, ctx = Graph.load(model), Context()
    PassManager(default_pipeline(options, target).passes, fingerprints=False).run(graph, ctx)
    graph.save(folder / "model.onnx")
    padded = np.zeros((1, 3, *canvas), np.float32)
    padded += np.array(ctx.spec().image.mean, np.float32)[:, None, None]
    padded[0, :, : TRUE[0], : TRUE[1]] = picture.transpose(2, 0, 1)
    outputs = OrtRunner(folder / "model.onnx")({"input_tensor": padded, "image_sizes": np.array([TRUE], np.float32)})
    return stage_detections(outputs, ctx)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt-rtx"])
def test_the_canvas_does_not_matter(golden_model: Path, tmp_path: Path, picture: np.ndarray, target: str) -> None:
    alone = detect(golden_model, tmp_path, picture, (256, 320), False, "onnxruntime")
    assert len(alone) > 5
    report = match(alone, detect(golden_model, tmp_path, picture, (416, 384), True, target))
    assert report.exact, report
    assert report.box_px < 1e-3
    assert report.score < 1e-4


def test_without_the_pass_it_does(golden_model: Path, tmp_path: Path, picture: np.ndarray) -> None:
    alone = detect(golden_model, tmp_path, picture, (256, 320), False, "onnxruntime")
    assert not match(alone, detect(golden_model, tmp_path, picture, (416, 384), False, "onnxruntime")).exact


def test_needs_the_image_sizes(golden_model: Path) -> None:
    graph, ctx = Graph.load(golden_model), Context()
    steps = list(default_pipeline(CompileOptions(height=256, width=320), "onnxruntime").passes)
    at = next(i for i, step in enumerate(steps) if step.name() == "inject-anchors")
    with pytest.raises(InputError, match="needs the true image sizes; build with --image-sizes"):
        PassManager([*steps[:at], MaskPadding()], fingerprints=False).run(graph, ctx)


def test_refuses_what_averages_over_the_canvas(golden_model: Path) -> None:
    graph, ctx = Graph.load(golden_model), Context()
    options = CompileOptions(height=256, width=320, image_sizes=True)
    steps = list(default_pipeline(options, "onnxruntime").passes)
    at = next(i for i, step in enumerate(steps) if step.name() == "inject-anchors")
    PassManager(steps[:at], fingerprints=False).run(graph, ctx)
    relu = next(node for node in _trunk(graph, ctx) if node.op == "Relu")
    relu.op, relu.name = "GlobalAveragePool", "squeeze"
    with pytest.raises(PassError, match=r"averages over the whole canvas.*\(node 'squeeze'\)"):
        PassManager([_Provided()], fingerprints=False).run(graph, ctx)


class _Provided(MaskPadding):
    """The pass without its requirement, for a graph that is half-way through the pipeline."""

    requires = ()
