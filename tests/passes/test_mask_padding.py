"""mask-padding: an image gives the same answers on a large canvas as on one of its own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.padded import TRUE, detect

from onnxgraft.errors import InputError, PassError
from onnxgraft.golden import scenes
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes import MaskPadding
from onnxgraft.passes.default import default_pipeline
from onnxgraft.passes.mask_padding import _trunk
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A drawn image of the true size, uint8 BGR."""
    return scenes.draw(3_000_000_001, TRUE)[0]


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
    steps = list(default_pipeline(CompileOptions(size=(256, 320)), "onnxruntime").passes)
    at = next(i for i, step in enumerate(steps) if step.name() == "inject-anchors")
    with pytest.raises(InputError, match="needs the true image sizes; build with --image-sizes"):
        PassManager([*steps[:at], MaskPadding()], fingerprints=False).run(graph, ctx)


def test_refuses_what_averages_over_the_canvas(golden_model: Path) -> None:
    graph, ctx = Graph.load(golden_model), Context()
    options = CompileOptions(size=(256, 320), image_sizes=True)
    steps = list(default_pipeline(options, "onnxruntime").passes)
    at = next(i for i, step in enumerate(steps) if step.name() == "inject-anchors")
    PassManager(steps[:at], fingerprints=False).run(graph, ctx)
    relu = next(node for node in _trunk(graph, ctx) if node.op == "Relu")
    relu.op, relu.name = "GlobalAveragePool", "squeeze"
    with pytest.raises(PassError, match=r"reads the whole canvas.*\(node 'squeeze'\)"):
        PassManager([MaskPadding()], fingerprints=False, given=ctx.facts).run(graph, ctx)


