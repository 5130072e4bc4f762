"""Recognition of networks that only segment, with and without the post-processing of detectron2's own export script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.graphs import parse_graph
from helpers.semantic_networks import LOGITS, network

from onnxgraft.analysis import analyse
from onnxgraft.errors import Refusal
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime import semantic
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.targets import OrtRunner

POSTPROCESSED = """
  large = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(logits, none, four)
  alone = Split<axis = 0>(large, split)
  chw = Squeeze(alone, zero)
  cut = Slice(chw, low, high, axes)
  again = Unsqueeze(cut, zero)
  sized = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(again, none, none, full)
  answer = Gather<axis = 0>(sized, first)
"""


def recognised(graph: Graph) -> Graph:
    settle(graph)
    return graph


@pytest.mark.parametrize(("outputs", "tail"), [(LOGITS, ""), ("float[c, h, w] answer", POSTPROCESSED)])
def test_semantic_logits_are_found(outputs: str, tail: str) -> None:
    spec = analyse(recognised(network(outputs, tail)))
    assert spec.family == "semantic-fpn"
    assert spec.semantic is not None
    assert (spec.semantic.num_classes, spec.semantic.stride, spec.semantic.logits_tensor) == (5, 4, "logits")
    assert spec.outputs.semantic_tensor == "logits"
    assert spec.num_classes is None
    assert (spec.image.height, spec.image.width, spec.image.order) == (64, 96, "BGR")


@pytest.mark.parametrize("axis", ["zero", "two"], ids=["classes in another order", "mirrored"])
def test_other_things_behind_the_logits_are_refused(axis: str) -> None:
    cut = "cut = Slice(chw, low, high, axes)"
    assert cut in POSTPROCESSED
    turned = POSTPROCESSED.replace(cut, f"turned = Slice(chw, last, before, {axis}, last)\n  {cut.replace('chw', 'turned')}")
    with pytest.raises(Refusal, match=r"^the semantic logits behind their head differ"):
        analyse(recognised(network("float[c, h, w] answer", turned)))


def test_a_second_output_is_no_segmentation() -> None:
    graph = recognised(network(LOGITS + ", float[1, 8, h, w] active"))
    with pytest.raises(Refusal):
        analyse(graph)


def test_a_map_of_one_level_is_no_semantic_fpn() -> None:
    """Near miss: the predictor of detectron2's head reads the sum of the pyramid's levels."""
    with pytest.raises(Refusal, match="no family of detectron2"):
        analyse(recognised(network(LOGITS, merge="merged = Sigmoid(active)")))


def test_logits_at_no_whole_stride_are_refused() -> None:
    graph = recognised(network(LOGITS))
    graph.tensor("logits").shape = [1, 5, 15, 24]
    with pytest.raises(Refusal, match="semantic logits of 15x24 are no whole part of 64x96"):
        analyse(graph)


def test_an_image_that_no_convolution_reads_is_refused() -> None:
    graph = parse_graph("""
        <ir_version: 8, opset_import: ["" : 16]>
        g (float[3, 64, 96] image) => (float[1, 3, 64, 96] y) <int64[1] zero = {0}> { y = Unsqueeze(image, zero) }
    """)
    with pytest.raises(Refusal):
        analyse(graph)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("outputs", "tail"), [(LOGITS, ""), ("float[c, h, w] answer", POSTPROCESSED)])
def test_the_default_pipeline_gives_the_exports_answers(outputs: str, tail: str, batch: int, tmp_path: Path) -> None:
    """Every image of a batch; passes for detections leave the network alone."""
    image = np.random.default_rng(4).integers(0, 256, (3, 64, 96)).astype(np.float32)
    graph = network(outputs, tail)
    graph.save(tmp_path / "export.onnx")
    (expected,) = OrtRunner(tmp_path / "export.onnx")({"image": image}).values()
    ctx = Context()
    steps = default_pipeline(CompileOptions(size=(64, 96), batch=batch), "onnxruntime").passes
    PassManager(steps).run(graph, ctx)
    graph.save(tmp_path / "compiled.onnx")
    outputs_found = OrtRunner(tmp_path / "compiled.onnx")({"input_tensor": np.stack([image * 0] * (batch - 1) + [image])})
    assert list(outputs_found) == ["semantic_logits"]
    found = from_outputs(outputs_found, ctx.io, batch - 1)
    assert found.semantic is not None
    assert found.semantic.shape == (5, 16, 24)
    full = semantic.enlarged(found.semantic, 4) if expected.ndim == 3 else found.semantic[None]
    np.testing.assert_allclose(full, expected, atol=1e-3)


def test_another_size_than_the_exports(tmp_path: Path) -> None:
    graph, ctx = network("float[c, h, w] answer", POSTPROCESSED), Context()
    PassManager(default_pipeline(CompileOptions(size=(128, 64)), "onnxruntime").passes).run(graph, ctx)
    assert ctx.io.outputs == {"semantic_logits": (1, 5, 32, 16)}
