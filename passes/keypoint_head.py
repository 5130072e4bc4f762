"""Gives each detection its keypoint heatmaps, as [N, detections, K, S, S]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context


@dataclass(frozen=True, kw_only=True)
class KeypointHead(Pass):
    """Reshape keypoint heatmaps to [N, detections, K, S, S].

    Legal when (1) the detections are fixed in number. The heatmaps stay logits: where the keypoints lie follows from
    each box's size in pixels, which the runtime decodes as detectron2 does. A detector without keypoints is left alone.
    Heatmaps of unused rows mean nothing: read num_detections.
    """

    requires: ClassVar[tuple[str, ...]] = ("detections",)
    provides: ClassVar[tuple[str, ...]] = ("heatmaps",)
    touches: ClassVar[tuple[str, ...]] = ("outputs",)

    def run(self, graph: Graph, ctx: Context) -> None:
        head = ctx.spec().keypoint_head
        if head is None:
            return
        flat = graph.tensor(ctx.sites["heatmaps"])
        if len(flat.shape) == 5:
            return
        detections = int(graph.tensor(ctx.sites["classes"]).shape[1])
        shape = [ctx.batch, detections, head.keypoints, head.resolution, head.resolution]
        b = Builder(graph, "keypoint_head", [node.name for node in flat.inputs])
        heatmaps = b.op("Reshape", [flat, b.ints("per_image", shape)], "heatmaps", shape=shape)
        graph.gs.outputs[:] = [heatmaps if t is flat else t for t in graph.gs.outputs]
        ctx.sites["heatmaps"] = heatmaps.name
