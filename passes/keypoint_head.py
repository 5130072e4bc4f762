"""Gives each detection its keypoint heatmaps, as [N, detections, K, S, S]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.detector.spec import KeypointHead as Keypoints
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTIONS, Fact


@dataclass(frozen=True, kw_only=True)
class KeypointHead(DetectorPass[Keypoints]):
    """Reshape keypoint heatmaps to [N, detections, K, S, S].

    Legal when (1) the detections are fixed in number. The heatmaps stay logits: where the keypoints lie follows from
    each box's size in pixels, which the runtime decodes as detectron2 does. A detector without keypoints is left alone.
    Heatmaps of unused rows mean nothing: read num_detections.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (DETECTIONS,)
    modifies: ClassVar[tuple[str, ...]] = ("outputs",)
    noun: ClassVar[str] = "keypoint head"

    @staticmethod
    def part(spec: DetectorSpec) -> Keypoints | None:
        return spec.keypoint_head

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        name = ctx.values.results.get(Role.HEATMAPS)
        done = name is not None and len(graph.tensor(name).shape or ()) == 5
        return super().applies(graph, ctx) or ("the heatmaps are in this form" if done else None)

    def rewrite(self, graph: Graph, ctx: Context, head: Keypoints) -> None:
        flat = graph.tensor(ctx.values.results[Role.HEATMAPS])
        detections = int(graph.tensor(ctx.values.results[Role.CLASSES]).shape[1])
        shape = [ctx.batch, detections, head.keypoints, head.resolution, head.resolution]
        b = Builder(graph, "keypoint_head", [node.name for node in flat.inputs])
        heatmaps = b.of(flat).reshape(*shape, hint="per_image").named("heatmaps").handle
        graph.gs.outputs[:] = [heatmaps if t is flat else t for t in graph.gs.outputs]
        ctx.values.results[Role.HEATMAPS] = heatmaps.name
