"""Replaces the export's gather and scatter maze around RoiAlign by one PyramidROIAlign_TRT per pooler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector import Pooler
from onnxgraft.errors import Refusal
from onnxgraft.graph import Builder, Graph
from onnxgraft.manager import Context, Pass
from onnxgraft.passes.box_ops import columns
from onnxgraft.passes.fix_input import first_image
from onnxgraft.passes.plugin_nodes import add_plugin

_HALF_PIXEL, _OUTPUT_HALF_PIXEL = 2, 1  # roi_coords_transform


@dataclass(frozen=True, kw_only=True)
class RoiAlign(Pass):
    """Replace every RoI pooler by PyramidROIAlign_TRT.

    Legal when (1) a pooler reads four maps of consecutive levels, (2) its canonical size and level are those of a whole
    fpn_scale. Boxes choose their level by area as in detectron2, up to equality (the plugin compares strictly).
    """

    requires: ClassVar[tuple[str, ...]] = ("proposals",)
    provides: ClassVar[tuple[str, ...]] = ("pooled",)

    def run(self, graph: Graph, ctx: Context) -> None:
        spec = ctx.spec()
        self._pool_proposals(graph, ctx, spec.box_pooler)
        if spec.mask_pooler is not None:
            self._pool_detections(graph, ctx, spec.mask_pooler)
        graph.cleanup()

    def _pool_proposals(self, graph: Graph, ctx: Context, pooler: Pooler) -> None:
        n, rows = ctx.batch, ctx.spec().rpn.post_nms_topk
        old = graph.tensor(pooler.pooled_tensor)
        b = Builder(graph, "box_pooler", [node.name for node in old.inputs])
        maps = [graph.tensor(ctx.current(name)) for name in pooler.feature_tensors]
        pooled = _pyramid(b, ctx, pooler, graph.tensor(ctx.sites["proposals"]), maps, n)
        shape = [n * rows, pooler.channels, pooler.resolution, pooler.resolution]
        graph.replace(old, b.op("Reshape", [pooled, b.ints("rows", [-1, *shape[1:]])], "pooled", shape=shape))
        _keep_valid_rows(graph, ctx)
        ctx.count("poolers")

    def _pool_detections(self, graph: Graph, ctx: Context, pooler: Pooler) -> None:
        old = graph.tensor(pooler.pooled_tensor)
        b = Builder(graph, "mask_pooler", [node.name for node in old.inputs])
        boxes = b.op(
            "Unsqueeze", [graph.tensor(pooler.boxes_tensor), b.ints("image", [0])], "boxes", shape=[1, "detections", 4]
        )
        maps = [first_image(b, graph.tensor(ctx.current(name)), ctx.batch) for name in pooler.feature_tensors]
        pooled = _pyramid(b, ctx, pooler, boxes, maps, 1)
        ctx.sites["mask_roi_align"] = pooled.inputs[0].name
        tail = [pooler.channels, pooler.resolution, pooler.resolution]
        flat = b.op("Reshape", [pooled, b.ints("rows", [-1, *tail])], "pooled", shape=["detections", *tail])
        ctx.sites["mask_pooled"] = flat.name
        graph.replace(old, flat)
        ctx.count("poolers")


def _pyramid(b: Builder, ctx: Context, pooler: Pooler, boxes: gs.Tensor, maps: list[gs.Tensor], n: int) -> gs.Tensor:
    image = ctx.spec().image
    if not pooler.aligned:
        boxes = _at_least_one_cell(b, boxes, 1 / pooler.scales[0])
    shape = [n, boxes.shape[1], pooler.channels, pooler.resolution, pooler.resolution]
    pooled = add_plugin(
        b, "PyramidROIAlign_TRT", [boxes, *maps], [("features", np.float32, shape)],
        pooled_size=pooler.resolution, fpn_scale=fpn_scale(pooler), image_size=[image.height, image.width],
        sampling_ratio=pooler.sampling_ratio, roi_coords_absolute=1, roi_coords_swap=0, roi_coords_plusone=0,
        roi_coords_transform=_HALF_PIXEL if pooler.aligned else _OUTPUT_HALF_PIXEL, legacy=0,
    )[0]  # fmt: skip
    ctx.lowering[pooled.inputs[0].name] = {"level_rule": "detectron2"}
    return pooled


def fpn_scale(pooler: Pooler) -> int:
    """The plugin's canonical size: it pools boxes up to half of it from its first map. Raises Refusal when not whole."""
    scale = pooler.canonical_size * 2.0 ** (pooler.min_level + 2 - pooler.canonical_level)
    if abs(scale - round(scale)) > 1e-3 or round(scale) < 1:
        raise Refusal(f"canonical size {pooler.canonical_size} at level {pooler.canonical_level} is no whole fpn_scale",
                      pooler.pooled_tensor)  # fmt: skip
    return round(scale)


def _at_least_one_cell(b: Builder, boxes: gs.Tensor, stride: float) -> gs.Tensor:
    """ROIAlign without alignment pools at least one cell. Only boxes on the finest map can be that thin."""
    shape = list(boxes.shape)
    low = columns(b, boxes, 0, 2, "low", [*shape[:-1], 2])
    high = columns(b, boxes, 2, 4, "high", [*shape[:-1], 2])
    least = b.op("Add", [low, b.floats("cell", stride)], "one_cell", shape=[*shape[:-1], 2])
    high = b.op("Max", [high, least], "at_least_one_cell", shape=[*shape[:-1], 2])
    return b.op("Concat", [low, high], "boxes_of_a_cell", shape=shape, axis=-1)


def _keep_valid_rows(graph: Graph, ctx: Context) -> None:
    """The box head now sees every row; what the export computes after it still takes the first image's real proposals."""
    head = ctx.spec().box_head
    rows = graph.tensor(ctx.sites["valid_rows"])
    for name in (head.scores_tensor, head.deltas_tensor):
        tensor = graph.tensor(name)
        consumers = list(tensor.outputs)
        b = Builder(graph, "valid_rows", [name])
        shape = ["rows", *tensor.shape[1:]]
        kept = b.op("Gather", [tensor, rows], "kept", shape=shape, axis=0)
        graph.redirect(consumers, tensor, kept)
