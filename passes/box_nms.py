"""Turns class scores and deltas into detections by one EfficientNMS_TRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import BoxHead, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import descendants
from onnxgraft.options import Count, Share
from onnxgraft.passes.emit.boxes import bounds, chosen_anew, clip, columns, decode, just_above, set_outputs
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.passes.emit.roi_pooler import pool
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTIONS, POOLED, Fact


@dataclass(frozen=True, kw_only=True)
class BoxNMS(DetectorPass[BoxHead]):
    """Decode, clip and suppress the box head's output by EfficientNMS_TRT, per class.

    detectron2 keeps score > threshold and suppresses IoU > threshold; the plugin compares with >=, so it gets the next
    float up. Legal when (1) the box head was recognised. Options override the export's values. The plugin takes the
    5000 best boxes of an image; candidates beyond that are lost (detectron2 has no cap). A detector without a box head is
    left alone.
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
        return chosen_anew(self.score_threshold, self.iou_threshold, self.detections)

    @staticmethod
    def part(spec: DetectorSpec) -> BoxHead | None:
        return spec.box_head

    def rewrite(self, graph: Graph, ctx: Context, head: BoxHead) -> None:
        spec, outputs = ctx.spec(), ctx.spec().outputs
        proposals = graph.tensor(ctx.values.head_boxes)
        n, p, c = ctx.batch, int(proposals.shape[1]), head.num_classes
        b = Builder(
            graph, "box_nms", [i.name for t in (head.scores_tensor, head.deltas_tensor) for i in graph.tensor(t).inputs]
        )
        names = [*(stage.scores_tensor for stage in spec.cascade), head.scores_tensor]
        stages = [graph.tensor(name) for name in names]
        scores = self._class_scores(graph, ctx, b, _mean(b, stages), [n, p, c])
        boxes = self._class_boxes(graph, ctx, b, head, proposals, [n, p, 1 if head.class_agnostic else c, 4])
        count, kept, best, classes = add_plugin(
            b, "EfficientNMS_TRT", [boxes, scores],
            [("num_detections", np.int32, None), ("boxes", np.float32, None),
             ("scores", np.float32, None), ("classes", np.int32, None)],
            score_threshold=just_above(head.score_threshold if self.score_threshold is None else self.score_threshold),
            iou_threshold=just_above(head.nms_threshold if self.iou_threshold is None else self.iou_threshold),
            max_output_boxes=self.detections or head.detections_per_image,
            background_class=-1, score_activation=0, class_agnostic=0, box_coding=0,
        )  # fmt: skip
        self._hand_over(graph, ctx, b, kept, classes)
        made = {Role.NUM_DETECTIONS: count, Role.BOXES: kept, Role.SCORES: best, Role.CLASSES: classes}
        maps = {Role.MASKS: outputs.masks_tensor, Role.HEATMAPS: outputs.heatmaps_tensor}
        maps[Role.SEMANTIC] = outputs.semantic_tensor
        further = {role: name for role, name in maps.items() if name}
        ctx.values.results |= {role: tensor.name for role, tensor in made.items()} | further
        others = [graph.tensor(name) for name in further.values()]
        set_outputs(graph, ctx, [count, kept, best, classes, *others])
        graph.cleanup()
        _fix_output_rows(graph, ctx, n * kept.shape[1])

    @staticmethod
    def _class_scores(graph: Graph, ctx: Context, b: Builder, activated: gs.Tensor, shape: list[int]) -> gs.Tensor:
        """[N, P, C] scores of the foreground classes; -1 in rows that hold no proposal."""
        n, p, c = shape
        grouped = b.op("Reshape", [activated, b.ints("grouped", [n, p, c + 1])], "with_background", shape=[n, p, c + 1])
        foreground = columns(b, grouped, 0, c, "foreground", shape)
        valid = graph.tensor(ctx.values.proposals.valid)
        valid = b.op("Unsqueeze", [valid, b.ints("last", [2])], "valid", dtype=np.bool_, shape=[n, p, 1])
        return b.op("Where", [valid, foreground, b.floats("none", -1.0)], "class_scores", shape=shape)

    @staticmethod
    def _class_boxes(
        graph: Graph, ctx: Context, b: Builder, head: BoxHead, proposals: gs.Tensor, shape: list[int]
    ) -> gs.Tensor:
        """[N, P, C, 4] (or one box for all classes) decoded from the proposals and clipped."""
        around = [*shape[:2], 1, 4]
        deltas = b.op("Reshape", [graph.tensor(head.deltas_tensor), b.ints("per_class", shape)], "deltas", shape=shape)
        proposals = b.op("Unsqueeze", [proposals, b.ints("class_axis", [2])], "proposals", shape=around)
        return clip(b, decode(b, deltas, proposals, head.coder, shape, around), bounds(b, ctx, 4), shape)

    @staticmethod
    def _hand_over(graph: Graph, ctx: Context, b: Builder, boxes: gs.Tensor, classes: gs.Tensor) -> None:
        """Give the heads of detections, which the export runs on a varying number of them, the fixed number of all images."""
        spec = ctx.spec()
        rows = ctx.batch * boxes.shape[1]
        flat = b.op("Reshape", [boxes, b.ints("rows", [-1, 4])], "flat_boxes", shape=[rows, 4])
        kinds = b.op("Cast", [classes], "classes64", dtype=np.int64, shape=list(classes.shape), to=7)
        kinds = b.op("Reshape", [kinds, b.ints("flat", [-1])], "flat_classes", dtype=np.int64, shape=[rows])
        for name, new in ((spec.outputs.boxes_tensor, flat), (spec.outputs.classes_tensor, kinds)):
            if name is not None:
                graph.replace(graph.tensor(name), new)
        for head, pooler in spec.detection_poolers().items():
            old = graph.tensor(ctx.values.pooled[head])
            maps = [graph.tensor(ctx.current(name)) for name in pooler.feature_tensors]
            part = Builder(graph, f"{head.value}_pooler", [node.name for node in old.inputs])
            pooled = pool(part, ctx, pooler, boxes, maps)
            graph.replace(old, pooled)
            _forget_shapes_after(graph, pooled)


def _mean(b: Builder, stages: list[gs.Tensor]) -> gs.Tensor:
    """A cascade's scores, in CascadeROIHeads' order of operations: summed, then multiplied by 1 / stages."""
    total = stages[0]
    for scores in stages[1:]:
        total = b.op("Add", [total, scores], "sum_of_stages", shape=list(total.shape))
    if len(stages) == 1:
        return total
    return b.op("Mul", [total, b.floats("share", 1 / len(stages))], "mean_of_stages", shape=list(total.shape))


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
