"""Turns class scores and deltas into detections by one EfficientNMS_TRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.structure import descendants
from onnxgraft.graph import Builder, Graph
from onnxgraft.manager import Context, Pass
from onnxgraft.passes.box_ops import bounds, clip, columns, decode, just_above
from onnxgraft.passes.plugin_nodes import add_plugin


@dataclass(frozen=True, kw_only=True)
class BoxNMS(Pass):
    """Decode, clip and suppress the box head's output by EfficientNMS_TRT, per class.

    detectron2 keeps score > threshold and suppresses IoU > threshold; the plugin compares with >=, so it gets the next
    float up. Legal when (1) the box head was recognised. Options override the export's values. The plugin takes the
    5000 best boxes of an image; candidates beyond that are lost (detectron2 has no cap).
    """

    requires: ClassVar[tuple[str, ...]] = ("pooled",)
    provides: ClassVar[tuple[str, ...]] = ("detections",)
    touches: ClassVar[tuple[str, ...]] = ("outputs",)

    score_threshold: float | None = None
    iou_threshold: float | None = None
    detections: int | None = None

    def run(self, graph: Graph, ctx: Context) -> None:
        spec = ctx.spec()
        head, outputs = spec.box_head, spec.outputs
        n, p, c = ctx.batch, spec.rpn.post_nms_topk, head.num_classes
        b = Builder(
            graph, "box_nms", [i.name for t in (head.scores_tensor, head.deltas_tensor) for i in graph.tensor(t).inputs]
        )
        scores = self._class_scores(graph, ctx, b, n, p, c)
        boxes = self._class_boxes(graph, ctx, b, n, p, 1 if head.class_agnostic else c)
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
        masks = [graph.tensor(outputs.masks_tensor)] if outputs.masks_tensor else []
        graph.gs.outputs[:] = [count, kept, best, classes, *masks]
        ctx.sites |= {"num_detections": count.name, "boxes": kept.name, "scores": best.name, "classes": classes.name}
        ctx.sites |= {"masks": masks[0].name} if masks else {}
        graph.cleanup()
        _forget_mask_shapes(graph, ctx)

    @staticmethod
    def _class_scores(graph: Graph, ctx: Context, b: Builder, n: int, p: int, c: int) -> gs.Tensor:
        """[N, P, C] scores of the foreground classes; -1 in rows that hold no proposal."""
        activated = graph.tensor(ctx.spec().box_head.scores_tensor)
        grouped = b.op("Reshape", [activated, b.ints("grouped", [n, p, c + 1])], "with_background", shape=[n, p, c + 1])
        foreground = columns(b, grouped, 0, c, "foreground", [n, p, c])
        valid = b.op(
            "Unsqueeze",
            [graph.tensor(ctx.sites["valid"]), b.ints("last", [2])],
            "valid",
            dtype=np.bool_,
            shape=[n, p, 1],
        )
        return b.op("Where", [valid, foreground, b.floats("none", -1.0)], "class_scores", shape=[n, p, c])

    @staticmethod
    def _class_boxes(graph: Graph, ctx: Context, b: Builder, n: int, p: int, c: int) -> gs.Tensor:
        """[N, P, C, 4] (or one box for all classes) decoded from the proposals and clipped."""
        head = ctx.spec().box_head
        deltas = b.op(
            "Reshape",
            [graph.tensor(head.deltas_tensor), b.ints("per_class", [n, p, c, 4])],
            "deltas",
            shape=[n, p, c, 4],
        )
        proposals = b.op(
            "Unsqueeze",
            [graph.tensor(ctx.sites["proposals"]), b.ints("class_axis", [2])],
            "proposals",
            shape=[n, p, 1, 4],
        )
        decoded = decode(b, deltas, proposals, head.coder, [n, p, c, 4], [n, p, 1, 4])
        return clip(b, decoded, bounds(b, ctx, 4), [n, p, c, 4])

    @staticmethod
    def _hand_over(graph: Graph, ctx: Context, b: Builder, boxes: gs.Tensor, classes: gs.Tensor) -> None:
        """Give the mask head, which the export runs on a varying number of detections, the fixed number of all images."""
        spec = ctx.spec()
        rows = ctx.batch * boxes.shape[1]
        flat = b.op("Reshape", [boxes, b.ints("rows", [-1, 4])], "flat_boxes", shape=[rows, 4])
        kinds = b.op("Cast", [classes], "classes64", dtype=np.int64, shape=list(classes.shape), to=7)
        kinds = b.op("Reshape", [kinds, b.ints("flat", [-1])], "flat_classes", dtype=np.int64, shape=[rows])
        graph.replace(graph.tensor(spec.outputs.boxes_tensor), flat)
        graph.replace(graph.tensor(spec.outputs.classes_tensor), kinds)
        if spec.mask_pooler is None:
            return
        node = next(node for node in graph.nodes if node.name == ctx.sites["mask_roi_align"])
        maps = [graph.tensor(ctx.current(name)) for name in spec.mask_pooler.feature_tensors]
        node.inputs.clear()
        node.inputs.extend([boxes, *maps])
        node.outputs[0].shape = [ctx.batch, boxes.shape[1], *node.outputs[0].shape[2:]]
        pooled = graph.tensor(ctx.sites["mask_pooled"])
        pooled.shape = [rows, *pooled.shape[1:]]


def _forget_mask_shapes(graph: Graph, ctx: Context) -> None:
    """The mask head's tensors had a varying number of rows; let inference see the fixed one."""
    if "mask_pooled" not in ctx.sites:
        return
    start = graph.tensor(ctx.sites["mask_pooled"])
    later = descendants(start) - {id(start)}
    for node in graph.nodes:
        for tensor in node.outputs:
            if id(tensor) in later:
                tensor.shape = None
    head = ctx.spec().mask_head
    if head is not None:
        graph.tensor(ctx.sites["masks"]).shape = [start.shape[0], 1, head.resolution, head.resolution]
