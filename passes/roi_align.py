"""Replaces the export's gather and scatter maze around RoiAlign by one plugin per pooler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxgraft.detector.spec import BoxHead, CascadeStage, DetectorSpec, Head, Pooler
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.emit.boxes import clip, decode
from onnxgraft.passes.emit.roi_pooler import pool
from onnxgraft.passes.emit.rows import first_image
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import POOLED, PROPOSALS, Fact


@dataclass(frozen=True, kw_only=True)
class RoiAlign(DetectorPass[BoxHead]):
    """Replace every RoI pooler by PyramidROIAlign_TRT, or by ROIAlign_TRT where it reads one feature map.

    Four aligned maps are pooled by the pyramid's plugin, one map by ROIAlign_TRT; other numbers of maps, and several that
    are not aligned, by one ROIAlign_TRT a map. Legal when (1) of four maps, canonical size and level are those of a whole
    fpn_scale. Boxes choose their level by area as in detectron2, up to equality (the plugin compares strictly).
    Between the stages of a cascade, boxes are decoded and clipped for the whole batch. A detector that pools nothing is
    left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (PROPOSALS,)
    provides: ClassVar[tuple[Fact | str, ...]] = (POOLED,)
    noun: ClassVar[str] = "box head that pools"

    @staticmethod
    def part(spec: DetectorSpec) -> BoxHead | None:
        return spec.box_head if spec.box_pooler else None

    def rewrite(self, graph: Graph, ctx: Context, head: BoxHead) -> None:
        spec = ctx.spec()
        boxes = ctx.values.proposals.boxes
        for index, stage in enumerate(spec.cascade, start=1):
            _pool_proposals(graph, ctx, stage.pooler, boxes, f"box_pooler{index}", index > 1)
            _keep_valid_rows(graph, ctx, stage.scores_tensor)
            _keep_valid_rows(graph, ctx, stage.deltas_tensor)
            boxes = _refine(graph, ctx, stage, boxes, f"cascade/stage{index}")
        _pool_proposals(graph, ctx, spec.box_poolers()[-1], boxes, "box_pooler", bool(spec.cascade))
        _keep_valid_rows(graph, ctx, head.scores_tensor)
        _keep_valid_rows(graph, ctx, head.deltas_tensor)
        ctx.values.head_boxes = boxes
        poolers = spec.detection_poolers().items()
        ctx.values.pooled = {reader: _pool_detections(graph, ctx, reader, pooler) for reader, pooler in poolers}
        graph.cleanup()


def _pool_proposals(graph: Graph, ctx: Context, pooler: Pooler, boxes: str, part: str, refined: bool) -> None:
    """Boxes that a stage of a cascade has refined may have lost their area; proposals have one, or are none."""
    old = graph.tensor(pooler.pooled_tensor)
    b = Builder(graph, part, [node.name for node in old.inputs])
    maps = [b.of(ctx.current(name)) for name in pooler.feature_tensors]
    pooled = pool(b, ctx, pooler, b.of(boxes), maps, refined)
    graph.replace(old, pooled.handle)
    ctx.replaced |= {pooler.boxes_tensor: boxes, pooler.pooled_tensor: pooled.name}
    ctx.count("poolers")


def _refine(graph: Graph, ctx: Context, stage: CascadeStage, boxes: str, part: str) -> str:
    """CascadeROIHeads._create_proposals_from_boxes: what the next stage pools, [N, P, 4]."""
    deltas = graph.tensor(stage.deltas_tensor)
    b = Builder(graph, part, [node.name for node in deltas.inputs])
    around = b.of(boxes)
    shape = around.shape
    per_image = b.op("Reshape", [deltas, b.ints("per_image", [-1, int(shape[1]), 4])], "deltas", shape=shape)
    return clip(b, ctx, decode(b.of(per_image), around, stage.coder)).name


def _pool_detections(graph: Graph, ctx: Context, head: Head, pooler: Pooler) -> str:
    """Of the first image, whose detections the export still finds in a varying number; box-nms fixes it."""
    old = graph.tensor(pooler.pooled_tensor)
    b = Builder(graph, f"{head.value}_pooler", [node.name for node in old.inputs])
    one = [graph.tensor(pooler.boxes_tensor), b.ints("image", [0])]
    boxes = b.of(b.op("Unsqueeze", one, "boxes", shape=[1, "detections", 4]))
    maps = [first_image(b.of(ctx.current(name)), ctx.batch) for name in pooler.feature_tensors]
    pooled = pool(b, ctx, pooler, boxes, maps, some_empty=True)
    graph.replace(old, pooled.handle)
    ctx.count("poolers")
    return pooled.name


def _keep_valid_rows(graph: Graph, ctx: Context, name: str) -> None:
    """The box head now sees every row; what the export computes after it still takes the first image's real proposals."""
    tensor = graph.tensor(name)
    consumers = list(tensor.outputs)
    b = Builder(graph, "valid_rows", [name])
    rows = graph.tensor(str(ctx.values.proposals.valid_rows))
    kept = b.op("Gather", [tensor, rows], "kept", shape=["rows", *tensor.shape[1:]], axis=0)
    graph.redirect(consumers, tensor, kept)
