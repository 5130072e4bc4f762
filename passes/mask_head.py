"""Gives each detection the mask of its class, as [N, detections, M, M]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.detector.spec import MaskHead as Masks
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.emit.rows import of_classes
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTIONS, Fact


@dataclass(frozen=True, kw_only=True)
class MaskHead(DetectorPass[Masks]):
    """Pick each detection's class before the sigmoid and reshape masks to [N, detections, M, M].

    Legal when (1) the detections are fixed in number. A class-agnostic head has one mask, which every class takes; a
    detector without masks is left alone. Masks of unused rows mean nothing: read num_detections.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (DETECTIONS,)
    modifies: ClassVar[tuple[str, ...]] = ("outputs",)
    noun: ClassVar[str] = "mask head"

    @staticmethod
    def part(spec: DetectorSpec) -> Masks | None:
        return spec.mask_head

    def rewrite(self, graph: Graph, ctx: Context, head: Masks) -> None:
        old = graph.tensor(ctx.values.results[Role.MASKS])
        classes = graph.tensor(ctx.values.results[Role.CLASSES])
        n, d, m = ctx.batch, int(classes.shape[1]), head.resolution
        box_head = ctx.spec().box_head
        before = box_head.first_class if box_head is not None else 0  # a background in front has a mask of its own
        picked = head.class_agnostic or ctx.spec().point_head is not None  # whose points were, one by one
        channels = 1 if picked else (ctx.spec().num_classes or 1) + before
        b = Builder(graph, "mask_head", [node.name for node in old.inputs])
        logits = b.of(ctx.current(head.logits_tensor))
        if channels > 1:
            logits = of_classes(b, logits, classes, channels, m * m, before)
        masks = logits.reshape(n, d, m, m, hint="masks").named("logits").sigmoid().named("masks").handle
        graph.gs.outputs[:] = [masks if t is old else t for t in graph.gs.outputs]
        ctx.values.results[Role.MASKS] = masks.name
