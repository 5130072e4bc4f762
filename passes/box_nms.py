"""Turns class scores and deltas into detections by one EfficientNMS_TRT."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.chosen import Chosen
from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import BoxHead, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import descendants
from onnxgraft.ir.value import Value, constant, where
from onnxgraft.options import Count, Share
from onnxgraft.passes.emit.boxes import clip, decode, just_above, set_outputs, shortest_side
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.passes.emit.roi_pooler import pool
from onnxgraft.pipeline.base import DetectorPass, Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTIONS, POOLED, Fact
from onnxgraft.plugins.efficient_nms import DENSE

_MOST_STEPS = 64  # of two; 0 as a threshold, the smallest float when it is "above 0", is left to the dense path


@dataclass(frozen=True, kw_only=True)
class BoxNMS(DetectorPass[BoxHead]):
    """Decode, clip and suppress the box head's output by EfficientNMS_TRT, per class.

    detectron2 keeps score > threshold and suppresses IoU > threshold; the plugin compares with >=, so it gets the next
    float up. Below 0.007, where the plugin would sort all elements and give out some that failed, scores and threshold
    are multiplied by a power of two, which no comparison notices. Legal when (1) the box head was recognised. Options
    override the export's values. The plugin takes the 5000 best boxes of an image; candidates beyond that are lost
    (detectron2 has no cap). A detector without a box head is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (POOLED,)
    provides: ClassVar[tuple[Fact | str, ...]] = (DETECTIONS,)
    modifies: ClassVar[tuple[str, ...]] = ("outputs",)
    noun: ClassVar[str] = "box head"

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
    def part(spec: DetectorSpec) -> BoxHead | None:
        return spec.box_head

    def rewrite(self, graph: Graph, ctx: Context, head: BoxHead) -> None:
        spec, outputs = ctx.spec(), ctx.spec().outputs
        b = Builder(
            graph, "box_nms", [i.name for t in (head.scores_tensor, head.deltas_tensor) for i in graph.tensor(t).inputs]
        )
        stages = [b.of(name) for name in (*(stage.scores_tensor for stage in spec.cascade), head.scores_tensor)]
        proposals = b.of(ctx.values.head_boxes)
        rows = int(proposals.shape[1])
        scores = _class_scores(_mean(b, stages), b.of(ctx.values.proposals.valid), ctx.batch, rows, head)
        boxes = _class_boxes(b, ctx, head, proposals)
        if head.min_box_size is not None:
            scores = _without_small_ones(scores, boxes, head.min_box_size)
        threshold = just_above(head.score_threshold if self.score_threshold is None else self.score_threshold)
        scale = _lift(threshold)
        if scale != 1.0:
            scores = (scores * constant("scale", scale)).named("scaled_scores")
        count, kept, best, classes = add_plugin(
            b, "EfficientNMS_TRT", [boxes, scores],
            [("num_detections", np.int32, None), ("boxes", np.float32, None),
             ("scores", np.float32, None), ("classes", np.int32, None)],
            score_threshold=threshold * scale,
            iou_threshold=just_above(head.nms_threshold if self.iou_threshold is None else self.iou_threshold),
            max_output_boxes=self.detections or head.detections_per_image,
            background_class=-1, score_activation=0, class_agnostic=0, box_coding=0,
        )  # fmt: skip
        if scale != 1.0:
            best = (best * constant("scale_back", 1 / scale)).named("best_scores")
        elif threshold < DENSE:
            count, kept, best, classes = _real_ones(kept, best, classes)
        _hand_over(graph, ctx, b, kept, classes)
        made = {Role.NUM_DETECTIONS: count, Role.BOXES: kept, Role.SCORES: best, Role.CLASSES: classes}
        maps = {Role.MASKS: outputs.masks_tensor, Role.HEATMAPS: outputs.heatmaps_tensor}
        maps[Role.SEMANTIC] = outputs.semantic_tensor
        further = {role: name for role, name in maps.items() if name}
        ctx.values.results |= {role: value.name for role, value in made.items()} | further
        others = [graph.tensor(name) for name in further.values()]
        set_outputs(graph, ctx, [*(value.handle for value in made.values()), *others])
        graph.cleanup()
        _fix_output_rows(graph, ctx, ctx.batch * int(kept.shape[1]))


def _lift(threshold: float) -> float:
    """The power of two that brings a threshold to where the plugin sorts only what passes it (1, where there is none).

    Scores and threshold times a power of two compare as they did, bit for bit, and come back as they were.
    """
    steps = math.ceil(math.log2(DENSE / threshold))
    return 2.0**steps if 0 < steps <= _MOST_STEPS else 1.0


def _real_ones(boxes: Value, scores: Value, classes: Value) -> tuple[Value, ...]:
    """(count [N, 1], boxes, scores, classes) without the rows below the threshold, which the plugin's dense path gives out
    behind the real ones, with scores of -32768, and counts; their rows are zero, as unused ones are."""
    zero = constant("zero", 0.0)
    real = (scores > zero).named("real")
    count = real.cast(np.int32).named("real_as_number").sum(1, keepdims=True).named("real_count")
    whole = real.unsqueeze(2, hint="last").named("real_boxes")
    return (
        count,
        where(whole, boxes, zero).named("real_boxes_alone"),
        where(real, scores, zero).named("real_scores"),
        where(real, classes, constant("none", np.int32(0))).named("real_classes"),
    )


def _mean(b: Builder, stages: list[Value]) -> Value:
    """A cascade's scores, in CascadeROIHeads' order of operations: summed, then multiplied by 1 / stages."""
    total = stages[0]
    for scores in stages[1:]:
        total = b.of(b.op("Add", [total, scores], "sum_of_stages", shape=total.shape))  # rows have a name for each stage
    return total if len(stages) == 1 else (total * constant("share", 1 / len(stages))).named("mean_of_stages")


def _class_scores(activated: Value, valid: Value, batch: int, rows: int, head: BoxHead) -> Value:
    """[N, P, C] scores of the foreground classes; -1 in rows that hold no proposal."""
    grouped = activated.reshape(batch, rows, head.num_classes + 1, hint="grouped").named("with_background")
    foreground = grouped[..., head.foreground].named("foreground")
    exists = valid.unsqueeze(2, hint="last").named("valid")
    return where(exists, foreground, constant("none", -1.0)).named("class_scores")


def _without_small_ones(scores: Value, boxes: Value, side: float) -> Value:
    """remove_small_boxes of torchvision: scores [N, P, C], -1 where a side of a box [N, P, C | 1, 4] is not above `side`."""
    large = (shortest_side(boxes) > constant("min_size", float(side))).named("large_enough")
    return where(large, scores, constant("too_small", -1.0)).named("scores_of_large_ones")


def _class_boxes(b: Builder, ctx: Context, head: BoxHead, proposals: Value) -> Value:
    """[N, P, C, 4] (or one box for all classes) decoded from the proposals and clipped."""
    deltas = b.of(head.deltas_tensor)
    if head.box_groups > head.num_classes:
        deltas = deltas[..., 4 : 4 * head.box_groups].named("foreground_deltas")
    classes = 1 if head.class_agnostic else head.num_classes
    shape = ctx.batch, int(proposals.shape[1]), classes, 4
    deltas = deltas.reshape(*shape, hint="per_class").named("deltas")
    around = proposals.unsqueeze(2, hint="class_axis").named("proposals")
    return clip(b, ctx, decode(deltas, around, head.coder))


def _hand_over(graph: Graph, ctx: Context, b: Builder, boxes: Value, classes: Value) -> None:
    """Give the heads of detections, which the export runs on a varying number of them, the fixed number of all images."""
    spec = ctx.spec()
    flat = boxes.reshape(-1, 4, hint="rows").named("flat_boxes")
    kinds = classes.cast(np.int64).named("classes64").reshape(-1, hint="flat").named("flat_classes")
    if spec.box_head is not None and spec.box_head.first_class:
        kinds = (kinds + spec.box_head.first_class).named("numbered_classes")
    for name, new in ((spec.outputs.boxes_tensor, flat), (spec.outputs.classes_tensor, kinds)):
        if name is not None:
            graph.replace(graph.tensor(name), new.handle)
    for head, pooler in spec.detection_poolers().items():
        old = graph.tensor(ctx.values.pooled[head])
        part = Builder(graph, f"{head.value}_pooler", [node.name for node in old.inputs])
        maps = [part.of(ctx.current(name)) for name in pooler.feature_tensors]
        pooled = pool(part, ctx, pooler, part.of(boxes), maps, some_empty=True).handle
        graph.replace(old, pooled)
        ctx.replaced |= {pooler.boxes_tensor: boxes.name, pooler.pooled_tensor: pooled.name}
        _forget_shapes_after(graph, pooled)


def _fix_output_rows(graph: Graph, ctx: Context, rows: int) -> None:
    spec = ctx.spec()
    if spec.mask_head is not None:
        size = spec.mask_head.resolution
        graph.tensor(ctx.values.results[Role.MASKS]).shape = [rows, 1, size, size]
    if spec.keypoint_head is not None:
        size = spec.keypoint_head.resolution
        graph.tensor(ctx.values.results[Role.HEATMAPS]).shape = [rows, spec.keypoint_head.keypoints, size, size]


def _forget_shapes_after(graph: Graph, start: gs.Tensor) -> None:
    """The head's tensors had a varying number of rows; let inference see the fixed one."""
    later = descendants(start) - {id(start)}
    for node in graph.nodes:
        for tensor in node.outputs:
            if id(tensor) in later:
                tensor.shape = None
