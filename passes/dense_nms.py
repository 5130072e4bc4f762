"""Turns a dense head's candidates into detections by one EfficientNMS_TRT over all levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from onnxgraft.detector.chosen import Chosen
from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DenseHead, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.ir.value import Value, concat, constant, where
from onnxgraft.options import Count, Share
from onnxgraft.passes.emit.boxes import clip, just_above, set_outputs, shortest_side
from onnxgraft.passes.emit.class_head import suppress_classes
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.passes.emit.rows import largest
from onnxgraft.pipeline.base import DetectorPass, Pass
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
    up. Where the head clips before the suppression, as torchvision's do, none is dropped. SSD's classes are the batch of the
    plugin, which suppresses each alone; the best of all follow. Legal when (1) dense-decode selected the candidates. Options
    override the export's values. Where more than the plugin's 5000 candidates enter, UncappedNMS takes its place, which is
    native on every target. A detector without a dense head is left alone.
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
        chosen = self.chosen()
        return f"you chose another {chosen}" if chosen != Chosen() else ""

    def chosen(self) -> Chosen:
        return Chosen(self.score_threshold, self.iou_threshold, self.detections)

    def as_exported(self) -> Pass:
        return replace(self, score_threshold=None, iou_threshold=None, detections=None)

    @staticmethod
    def part(spec: DetectorSpec) -> DenseHead | None:
        return spec.dense

    def rewrite(self, graph: Graph, ctx: Context, head: DenseHead) -> None:
        b = Builder(graph, "dense/nms", [t.inputs[0].name for t in graph.gs.outputs if t.inputs])
        score = head.score_threshold if self.score_threshold is None else self.score_threshold
        iou = head.nms_threshold if self.iou_threshold is None else self.iou_threshold
        most = self.detections or head.detections_per_image
        if head.class_topk is not None:
            made = suppress_classes(b, ctx, head, ctx.values.levels[0], score, iou, most)
        else:
            made = self._suppress_levels(b, ctx, head, (score, iou), most)
        roles = (Role.NUM_DETECTIONS, Role.BOXES, Role.SCORES, Role.CLASSES)
        ctx.values.results |= {role: value.name for role, value in zip(roles, made, strict=True)}
        set_outputs(graph, ctx, [value.handle for value in made])
        graph.cleanup()
        infer_shapes(graph)

    def _suppress_levels(
        self, b: Builder, ctx: Context, head: DenseHead, thresholds: tuple[float, float], most: int
    ) -> tuple[Value, ...]:
        """The detections of the candidates of all levels, which have thresholds of scores and of IoU."""
        levels, (score, iou) = ctx.values.levels, thresholds
        boxes = _all_levels(b, [level.boxes for level in levels], "boxes")
        scores = _all_levels(b, [level.scores for level in levels], "scores")
        classes = _all_levels(b, [level.classes for level in levels if level.classes], "classes")
        total = int(scores.shape[1])
        count, *kept = add_plugin(
            b, "EfficientNMS_TRT" if total <= CAP else "UncappedNMS",
            [boxes, _per_class(scores, classes, head.num_classes)],
            [("count", np.int32, None), ("kept", np.float32, None),
             ("kept_scores", np.float32, None), ("kept_classes", np.int32, None)],
            score_threshold=just_above(score), iou_threshold=just_above(iou), max_output_boxes=most,
            background_class=-1, score_activation=0, class_agnostic=0, box_coding=0,
        )  # fmt: skip
        # One class a box: its native form needs no [boxes, classes] problem. What is below the threshold is dropped below.
        ctx.lowering[count.handle.inputs[0].name] = NmsLowering(grouping="box", below_threshold_tail=0)
        ctx.count("candidates", total)
        return _with_area(b, ctx, head, *kept)


def _all_levels(b: Builder, names: list[str], role: str) -> Value:
    """[N, total, ...] of the tensors [N, k, ...] of all levels."""
    parts = [b.of(name) for name in names]
    return parts[0] if len(parts) == 1 else concat(*parts, axis=1).named(role)


def _per_class(scores: Value, classes: Value, number: int) -> Value:
    """[N, T] -> [N, T, K]: each candidate has its score in its own class's column and none elsewhere."""
    column = scores.unsqueeze(2, hint="last").named("column")
    if number == 1:
        return column
    label = classes.unsqueeze(2, hint="last").named("label")
    own = label.equal(constant("every_class", np.arange(number).reshape(1, 1, -1))).named("own_class")
    return where(own, column, constant("none", -1.0)).named("class_scores")


def _with_area(b: Builder, ctx: Context, head: DenseHead, boxes: Value, scores: Value, classes: Value) -> tuple[Value, ...]:
    """(count [N, 1], boxes, scores, classes): clipped to the image, boxes without area dropped, unused rows zero. Of a head
    that clipped before, all that the suppression left."""
    rows = int(scores.shape[1])
    zero = constant("zero", 0.0)
    clipped, valid = boxes, (scores > zero).named("used")
    if not head.clipped_first:
        clipped = clip(b, ctx, boxes)
        nonempty = (shortest_side(clipped) > zero).named("nonempty")
        valid = (nonempty & valid).named("valid")
    order = constant("order", np.arange(rows, 0, -1, dtype=np.float32).reshape(1, rows))
    moved, index = largest(where(valid, order, zero).named("order_of_valid"), rows, ("moved", "from"), "rows")
    alive = (moved > zero).named("alive")
    each = index.unsqueeze(2, hint="last").named("rows_from")
    whole = alive.unsqueeze(2, hint="last").named("alive_boxes")
    kept_boxes = clipped.take_nd(each, batch_dims=1).named("moved_boxes")
    kept_scores = scores.take_along(index, axis=1).named("moved_scores")
    kept_classes = classes.take_along(index, axis=1).named("moved_classes")
    count = alive.cast(np.float32).named("alive_numbers").sum(1, keepdims=True).named("alive_count")
    return (
        count.cast(np.int32).named("num_detections"),
        where(whole, kept_boxes, zero).named("boxes"),
        where(alive, kept_scores, zero).named("scores"),
        where(alive, kept_classes, constant("zero", np.int32(0))).named("classes"),
    )
