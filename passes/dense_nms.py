"""Turns a dense head's candidates into detections by one EfficientNMS_TRT over all levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DenseHead, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.options import Count, Share
from onnxgraft.passes.emit.boxes import bounds, chosen_anew, clip, columns, just_above, set_outputs
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DENSE_CANDIDATES, DETECTIONS, Fact
from onnxgraft.plugins.efficient_nms import CAP
from onnxgraft.plugins.lowering import NmsLowering


@dataclass(frozen=True, kw_only=True)
class DenseNMS(DetectorPass[DenseHead]):
    """Suppress the candidates of all levels per class by one EfficientNMS_TRT, then clip them.

    A candidate has its score in its own class's column only, so no other class's suppression sees it. detectron2 keeps
    score > threshold and suppresses IoU > threshold; the plugin compares with >=, so it gets the next float up. Boxes
    are clipped after suppression and those without area are dropped, as detector_postprocess does; what is left moves
    up. Legal when (1) dense-decode selected the candidates. Options override the export's values. Where more than the
    plugin's 5000 candidates enter, UncappedNMS takes its place, which is native on every target. A detector without a
    dense head is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (DENSE_CANDIDATES,)
    provides: ClassVar[tuple[Fact | str, ...]] = (DETECTIONS,)
    modifies: ClassVar[tuple[str, ...]] = ("outputs",)
    noun: ClassVar[str] = "dense head"

    score_threshold: Share | None = None
    iou_threshold: Share | None = None
    detections: Count | None = None

    @property
    def changes_answers(self) -> str:
        return chosen_anew(self.score_threshold, self.iou_threshold, self.detections)

    @staticmethod
    def part(spec: DetectorSpec) -> DenseHead | None:
        return spec.dense

    def rewrite(self, graph: Graph, ctx: Context, head: DenseHead) -> None:
        b = Builder(graph, "dense/nms", [t.inputs[0].name for t in graph.gs.outputs if t.inputs])
        levels = ctx.values.levels
        boxes = _all_levels(graph, ctx, b, [level.boxes for level in levels], "boxes")
        scores = _all_levels(graph, ctx, b, [level.scores for level in levels], "scores")
        classes = _all_levels(graph, ctx, b, [level.classes for level in levels if level.classes], "classes")
        total = int(scores.shape[1])
        count, *kept = add_plugin(
            b, "EfficientNMS_TRT" if total <= CAP else "UncappedNMS",
            [boxes, _per_class(b, scores, classes, head.num_classes)],
            [("count", np.int32, None), ("kept", np.float32, None),
             ("kept_scores", np.float32, None), ("kept_classes", np.int32, None)],
            score_threshold=just_above(head.score_threshold if self.score_threshold is None else self.score_threshold),
            iou_threshold=just_above(head.nms_threshold if self.iou_threshold is None else self.iou_threshold),
            max_output_boxes=self.detections or head.detections_per_image,
            background_class=-1, score_activation=0, class_agnostic=0, box_coding=0,
        )  # fmt: skip
        # One class a box: its native form needs no [boxes, classes] problem. What is below the threshold is dropped below.
        ctx.lowering[count.inputs[0].name] = NmsLowering(grouping="box", below_threshold_tail=0)
        made = _with_area(b, ctx, *kept)
        roles = (Role.NUM_DETECTIONS, Role.BOXES, Role.SCORES, Role.CLASSES)
        ctx.values.results |= {role: tensor.name for role, tensor in zip(roles, made, strict=True)}
        ctx.count("candidates", total)
        set_outputs(graph, ctx, made)
        graph.cleanup()
        infer_shapes(graph)


def _all_levels(graph: Graph, ctx: Context, b: Builder, names: list[str], role: str) -> gs.Tensor:
    parts = [graph.tensor(name) for name in names]
    if len(parts) == 1:
        return parts[0]
    total = sum(int(part.shape[1]) for part in parts)
    return b.op("Concat", parts, role, dtype=parts[0].dtype, shape=[ctx.batch, total, *parts[0].shape[2:]], axis=1)


def _per_class(b: Builder, scores: gs.Tensor, classes: gs.Tensor, number: int) -> gs.Tensor:
    """[N, T] -> [N, T, K]: each candidate has its score in its own class's column and none elsewhere."""
    n, total = (int(d) for d in scores.shape)
    column = b.op("Unsqueeze", [scores, b.ints("last", [2])], "column", shape=[n, total, 1])
    if number == 1:
        return column
    label = b.op("Unsqueeze", [classes, b.ints("last", [2])], "label", dtype=np.int64, shape=[n, total, 1])
    every = b.const("every_class", np.arange(number).reshape(1, 1, -1), np.int64)
    own = b.op("Equal", [label, every], "own_class", dtype=np.bool_, shape=[n, total, number])
    return b.op("Where", [own, column, b.floats("none", -1.0)], "class_scores", shape=[n, total, number])


def _with_area(b: Builder, ctx: Context, boxes: gs.Tensor, scores: gs.Tensor, classes: gs.Tensor) -> tuple[gs.Tensor, ...]:
    """(count [N, 1], boxes, scores, classes): clipped to the image, boxes without area dropped, unused rows zero."""
    n, rows = (int(d) for d in scores.shape)
    clipped = clip(b, boxes, bounds(b, ctx, 3), [n, rows, 4])
    low, high = (columns(b, clipped, i, i + 2, hint, [n, rows, 2]) for i, hint in ((0, "low"), (2, "high")))
    extent = b.op("Sub", [high, low], "extent", shape=[n, rows, 2])
    smallest = b.op("ReduceMin", [extent, b.ints("axes", [2])], "smallest", shape=[n, rows], keepdims=0)
    nonempty = b.op("Greater", [smallest, b.floats("zero", 0.0)], "nonempty", dtype=np.bool_, shape=[n, rows])
    used = b.op("Greater", [scores, b.floats("zero", 0.0)], "used", dtype=np.bool_, shape=[n, rows])
    valid = b.op("And", [nonempty, used], "valid", dtype=np.bool_, shape=[n, rows])
    order = b.floats("order", np.arange(rows, 0, -1, dtype=np.float32).reshape(1, rows))
    key = b.op("Where", [valid, order, b.floats("zero", 0.0)], "order_of_valid", shape=[n, rows])
    moved, index = b.ops(
        "TopK", [key, b.ints("rows", [rows])], [("moved", np.float32, [n, rows]), ("from", np.int64, [n, rows])],
        axis=1, largest=1, sorted=1,
    )  # fmt: skip
    alive = b.op("Greater", [moved, b.floats("zero", 0.0)], "alive", dtype=np.bool_, shape=[n, rows])
    each = b.op("Unsqueeze", [index, b.ints("last", [2])], "rows_from", dtype=np.int64, shape=[n, rows, 1])
    whole = b.op("Unsqueeze", [alive, b.ints("last", [2])], "alive_boxes", dtype=np.bool_, shape=[n, rows, 1])
    kept_boxes = b.op("GatherND", [clipped, each], "moved_boxes", shape=[n, rows, 4], batch_dims=1)
    kept_scores = b.op("GatherElements", [scores, index], "moved_scores", shape=[n, rows], axis=1)
    kept_classes = b.op("GatherElements", [classes, index], "moved_classes", dtype=np.int32, shape=[n, rows], axis=1)
    one = b.op("Cast", [alive], "alive_numbers", shape=[n, rows], to=1)
    count = b.op("ReduceSum", [one, b.ints("axes", [1])], "alive_count", shape=[n, 1], keepdims=1)
    return (
        b.op("Cast", [count], "num_detections", dtype=np.int32, shape=[n, 1], to=6),
        b.op("Where", [whole, kept_boxes, b.floats("zero", 0.0)], "boxes", shape=[n, rows, 4]),
        b.op("Where", [alive, kept_scores, b.floats("zero", 0.0)], "scores", shape=[n, rows]),
        b.op("Where", [alive, kept_classes, b.const("zero", 0, np.int32)], "classes", dtype=np.int32, shape=[n, rows]),
    )
