"""Rewrites that are wrong in one place: each is caught, and the part named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.errors import ProofError
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions, Size
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.proof import witness
from onnxgraft.proof.plan import parts_of
from onnxgraft.proof.prove import first_failure, prove
from onnxgraft.proof.sides import Sides
from onnxgraft.proof.witness import Witness

SIZE = Size(256, 320)


def _pipeline() -> list[Pass]:
    return list(default_pipeline(CompileOptions(size=SIZE), "onnxruntime").passes)


@pytest.fixture(scope="module", params=["mask_rcnn"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return witness.run(catalog.resolve(request.param, tmp_path_factory.mktemp("golden")), _pipeline(), None)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return witness.run(catalog.resolve("retinanet_thin", tmp_path_factory.mktemp("golden")), _pipeline(), None)


@pytest.fixture(scope="module")
def ssd(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return witness.run(catalog.resolve("ssd_torchvision_thin", tmp_path_factory.mktemp("golden")), _pipeline(), None)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return witness.run(catalog.resolve("cascade_mask_rcnn_thin", tmp_path_factory.mktemp("golden")), _pipeline(), None)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    return witness.run(catalog.resolve("pointrend_thin", tmp_path_factory.mktemp("golden")), _pipeline(), None)


def _sides(seen: Witness) -> Sides:
    assert seen.recognised is not None
    return seen.sides(seen.recognised)


def _failing(sides: Sides) -> list[str]:
    """The parts that differ."""
    return [part.name for part in parts_of(sides) if first_failure(part, list(part.probes()), sides.ctx.batch)]


def _node(graph: Graph, op: str, prefix: str) -> gs.Node:
    names = ((node, node.name, node.outputs[0].name) for node in graph.nodes if node.op == op)
    return next(node for node, *own in names if any(name.startswith(prefix) for name in own))


def _attribute(op: str, prefix: str, name: str, change: Callable[[float], float]) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        node = _node(graph, op, prefix)
        node.attrs[name] = change(node.attrs[name])

    return edit


def _constant(op: str, prefix: str, index: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        node = _node(graph, op, prefix)
        old = node.inputs[index]
        assert isinstance(old, gs.Constant)
        values = np.asarray(old.values)
        node.inputs[index] = gs.Constant(f"{old.name}/wrong", np.asarray(change(values), values.dtype))

    return edit


def _swapped_levels(graph: Graph) -> None:
    node = _node(graph, "PyramidROIAlign_TRT", "box_pooler")
    node.attrs["fpn_scale"] *= 2


NMS, POOL = "EfficientNMS_TRT", "PyramidROIAlign_TRT"
FAULTS = {
    "another score threshold": ("detections", _attribute(NMS, "box_nms", "score_threshold", lambda t: t * 1.5)),
    ">= instead of >": ("detections", _attribute(NMS, "box_nms", "score_threshold", lambda t: float(np.float32(0.05)))),
    "another IoU threshold": ("detections", _attribute(NMS, "box_nms", "iou_threshold", lambda t: t + 0.02)),
    "classes suppress each other": ("detections", _attribute(NMS, "box_nms", "class_agnostic", lambda _: 1)),
    "detections not clipped": ("detections", _constant("Min", "box_nms/clipped", 1, lambda b: b * 10)),
    "the clamp is lost": ("detections", _constant("Min", "box_nms/clamped", 1, lambda c: c + 1)),
    "proposals not clipped": ("proposals", _constant("Min", "rpn/stride8/clipped", 1, lambda b: b * 10)),
    "a neighbour's logit": ("proposals", _constant("Sub", "rpn/nms/behind_the_best", 0, lambda rows: rows - 1)),
    "too few of a level": ("proposals", _constant("Where", "rpn/nms/rank", 1, lambda order: order - 200)),
    "the clamp of proposals is lost": ("proposals", _constant("Min", "rpn/stride4/clamped", 1, lambda c: c + 1)),
    "another threshold of proposals": ("proposals", _attribute(NMS, "rpn/nms", "iou_threshold", lambda t: t - 0.02)),
    "anchors moved": ("proposals", _constant("Gather", "rpn/stride16/selected_anchors", 0, lambda a: a + 0.1)),
    "levels mixed": ("pooling of the boxes", _attribute(POOL, "box_pooler", "fpn_scale", lambda scale: scale * 2)),
    "another sampling": ("pooling of the boxes", _attribute(POOL, "box_pooler", "sampling_ratio", lambda _: 2)),
    "half a pixel": ("pooling of the masks", _attribute(POOL, "mask_pooler", "roi_coords_transform", lambda _: 1)),
    "another class's mask": ("masks", _constant("Add", "mask_head/index", 1, lambda first: first + 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_in_its_part_alone(seen: Witness, fault: str) -> None:
    part, edit = FAULTS[fault]
    sides = _sides(seen)
    edit(sides.build)
    assert _failing(sides) == [part]


def test_no_part_fails_without_a_fault(seen: Witness, dense: Witness, ssd: Witness, cascade: Witness) -> None:
    for each in (seen, dense, ssd, cascade):
        assert _failing(_sides(each)) == []


def test_faults_of_a_dense_head(dense: Witness) -> None:
    sides = _sides(dense)
    _attribute(NMS, "dense/nms", "class_agnostic", lambda _: 1)(sides.build)
    assert _failing(sides) == ["detections"]


@pytest.mark.parametrize(
    "edit",
    [
        _constant("Greater", "dense/nms/enters", 1, lambda t: t * 1.5),
        _constant("Greater", "dense/nms/enters", 1, lambda t: np.nextafter(t, np.float32(0))),
        _attribute(NMS, "dense/nms", "iou_threshold", lambda t: t + 0.02),
        _constant("Sub", "dense/nms/behind_the_best", 0, lambda rows: rows - 1),
        _constant("Where", "dense/nms/rank", 1, lambda order: order - 3),
        _constant("Div", "dense/nms/class", 1, lambda kept: kept - 1),
        _constant("Min", "dense/classes/clipped", 1, lambda b: b * 10),
        _constant("Slice", "dense/classes/x1y1", 0, lambda anchors: anchors + np.float32(0.2)),
    ],
    ids=["another threshold", ">= instead of >", "another IoU threshold", "a neighbour's score", "too few of a class",
         "another class", "not clipped", "anchors moved"],
)  # fmt: skip
def test_faults_of_a_head_that_ranks_classes(ssd: Witness, edit: Callable[[Graph], None]) -> None:
    sides = _sides(ssd)
    edit(sides.build)
    assert _failing(sides) == ["detections"]


def test_faults_of_a_cascade(cascade: Witness) -> None:
    sides = _sides(cascade)
    _constant("Mul", "box_nms/mean_of_stages", 1, lambda share: share * np.float32(1.01))(sides.build)
    assert _failing(sides) == ["detections"]
    sides = _sides(cascade)
    _constant("Min", "cascade/stage1/clipped", 1, lambda b: b * 10)(sides.build)
    assert _failing(sides) == ["boxes after stage 1"]


FAULTS_OF_POINTS = {
    "the grid of the coarse masks moved": (
        ["grid of the coarse masks"], _constant("Mul", "point_head/coarse/within_box", 0, lambda grid: grid + 0.01)),
    "zeros outside a map are lost": (
        ["points of round 1"], _attribute("GridSample", "point_head/round1/sampled", "padding_mode", lambda _: "border")),
    "the points of a grid moved": (
        ["points of round 3"], _constant("Add", "point_head/round3/column_centre", 1, lambda half: half * 2)),
    "a map of another extent": (
        ["points of round 2"], _constant("Div", "point_head/round2/within_map", 1, lambda covered: covered + 4)),
    "another class's points": (
        ["points of round 2"], _constant("Add", "point_head/round2/index", 1, lambda first: first + 1)),
    "the most certain points": (
        ["points of round 3"], _attribute("TopK", "point_head/round3/least_certain", "largest", lambda _: 0)),
}  # fmt: skip


def test_no_part_of_points_fails_without_a_fault(points: Witness) -> None:
    assert _failing(_sides(points)) == []


@pytest.mark.parametrize("fault", FAULTS_OF_POINTS)
def test_faults_of_points(points: Witness, fault: str) -> None:
    parts, edit = FAULTS_OF_POINTS[fault]
    sides = _sides(points)
    edit(sides.build)
    assert _failing(sides) == parts


@dataclass(frozen=True, kw_only=True)
class ShiftAnchors(Pass):
    """Moves the anchors of one level a little."""

    modifies: ClassVar[tuple[str, ...]] = ()

    def run(self, graph: Graph, ctx: Context) -> None:
        FAULTS["anchors moved"][1](graph)


@dataclass(frozen=True, kw_only=True)
class SampleLess(Pass):
    """Pools from fewer samples."""

    def run(self, graph: Graph, ctx: Context) -> None:
        FAULTS["another sampling"][1](graph)


@pytest.mark.parametrize(
    ("after", "planted", "part"),
    [("decode-boxes", ShiftAnchors(), "proposals"), ("roi-align", SampleLess(), "pooling of the boxes")],
)
def test_a_failed_proof_names_part_probe_row_and_pass(after: str, planted: Pass, part: str, tmp_path: Path) -> None:
    steps = _pipeline()
    at = next(index for index, step in enumerate(steps) if step.name() == after)
    steps.insert(at + 1, planted)
    with pytest.raises(ProofError) as caught:
        prove(catalog.resolve("mask_rcnn", tmp_path), steps)
    message = str(caught.value)
    assert message.startswith(f"{part}, fed ")
    assert "row " in message
    assert message.endswith(f"[first after pass {planted.name()!r}]")
