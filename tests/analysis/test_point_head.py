"""PointRend's mask head is held round by round: what samples, chooses or refines otherwise is refused by node and reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.members import meta
from onnx import helper, numpy_helper

from onnxgraft.errors import Refusal
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context

NAME = "pointrend_thin"
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("points")


def recognise(path: Path) -> Context:
    _, height, width = meta(NAME)["input"]["shape"]
    graph, ctx = Graph.load(path), Context()
    steps = {step.name(): step for step in default_pipeline(CompileOptions(size=(height, width)), "onnxruntime").passes}
    for name in ("upgrade-opset", "simplify", "fix-input"):
        steps[name].run(graph, ctx)
    return ctx


def nodes(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def between(model: onnx.ModelProto, reader: onnx.NodeProto, place: int, op: str, *more: str, **attrs: int) -> None:
    """Put a node in front of one input of another."""
    made = helper.make_node(op, [reader.input[place], *more], ["the-change"], name="the-change", **attrs)
    reader.input[place] = "the-change"
    model.graph.node.insert(list(model.graph.node).index(reader), made)


def attribute(number: int, name: str, value: int | bytes) -> Change:
    """Of a GridSample: the first gives the coarse masks, then each round has two of maps and one of coarse masks."""
    def change(model: onnx.ModelProto) -> None:
        (found,) = [a for a in nodes(model, "GridSample")[number].attribute if a.name == name]
        found.CopyFrom(helper.make_attribute(name, value))

    return change


def shifted(number: int) -> Change:
    """Points a little to the right of the others."""
    def change(model: onnx.ModelProto) -> None:
        between(model, nodes(model, "GridSample")[number], 1, "Add", constant(model, "shift", np.array([0.05, 0], np.float32)))

    return change


def most_certain(model: onnx.ModelProto) -> None:
    """The last round's points are those with the largest logits."""
    between(model, nodes(model, "TopK")[-1], 0, "Neg")


def first_class(model: onnx.ModelProto) -> None:
    """Uncertainty is that of another class than the detection's: the magnitude of half of all logits is doubled."""
    between(model, nodes(model, "Abs")[-1], 0, "Relu")


def nearest(model: onnx.ModelProto) -> None:
    (mode,) = [a for a in nodes(model, "Resize")[-1].attribute if a.name == "mode"]
    mode.CopyFrom(helper.make_attribute("mode", "nearest"))


def probabilities(model: onnx.ModelProto) -> None:
    """What a round enlarges are probabilities."""
    between(model, nodes(model, "Resize")[-1], 0, "Sigmoid")


def rows_mixed(model: onnx.ModelProto) -> None:
    """A box's logits of points have the mean over all boxes in them."""
    conv = [n for n in nodes(model, "Conv") if "predictor" in n.name][-1]
    between(model, conv, 0, "ReduceMean", keepdims=1)
    node = next(n for n in model.graph.node if n.name == "the-change")
    node.attribute.append(helper.make_attribute("axes", [0]))
    joined = helper.make_node("Add", [node.input[0], "mean-of-boxes"], ["the-change"], name="the-sum")
    node.output[0] = "mean-of-boxes"
    model.graph.node.insert(list(model.graph.node).index(node) + 1, joined)


def test_its_rounds_are_read(folder: Path) -> None:
    spec = recognise(catalog.resolve(NAME, folder)).spec()
    head = spec.point_head
    assert head is not None
    assert [(step.side, step.points) for step in head.steps] == [(14, 196), (28, 196), (56, 196)]
    assert (head.side, len(head.maps), len(head.point_maps)) == (14, 1, 2)
    assert [(each.width, each.height) for each in head.point_maps] == [(320.0, 256.0)] * 2
    assert spec.mask_pooler is None
    assert spec.mask_head is not None
    assert (spec.mask_head.resolution, spec.mask_head.class_agnostic) == (56, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (attribute(0, "padding_mode", b"border"), "features of the coarse masks differ"),
        (attribute(0, "align_corners", 1), "features of the coarse masks"),
        (attribute(4, "align_corners", 1), "points of round 2"),
        (attribute(9, "padding_mode", b"border"), "points of round 3"),
        (attribute(9, "mode", b"nearest"), "points of round 3"),
        (shifted(0), "features of the coarse masks .*the-change"),
        (shifted(1), "points of round 1 .*the-change"),
        (shifted(9), "points of round 3 .*the-change"),
        (most_certain, "points of round 3 .*the-change"),
        (first_class, "points of round 3"),
        (nearest, "points of round 3"),
        (probabilities, "4 maps and 2 coarse masks are sampled for one prediction"),
        (rows_mixed, "point head of round 3 mixes rows"),
    ],
)  # fmt: skip
def test_another_head_is_refused(change: Change, words: str, folder: Path) -> None:
    model = onnx.load(catalog.resolve(NAME, folder))
    change(model)
    onnx.save(model, folder / "changed.onnx")
    with pytest.raises(Refusal) as refused:
        recognise(folder / "changed.onnx")
    assert re.search(words, str(refused.value)), refused.value
