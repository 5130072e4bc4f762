"""Emits RoIAlign plugins: the pyramid's for several feature maps, ROIAlign_TRT for one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import Pooler
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.value import Value, concat, constant, where
from onnxgraft.passes.emit.boxes import corners, shortest_side
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.pipeline.context import Context
from onnxgraft.plugins.lowering import RoiAlignLowering

_HALF_PIXEL, _OUTPUT_HALF_PIXEL = 2, 1  # PyramidROIAlign_TRT's roi_coords_transform
_PYRAMID_MAPS = 4
_OFF_THE_MAP = (-8192.0, -8192.0, -8000.0, -8000.0)  # RoIAlign counts samples there as zero


def pool(b: Builder, ctx: Context, pooler: Pooler, boxes: Value, maps: Sequence[Value]) -> Value:
    """Features of boxes as detectron2's ROIPooler gives them.

    Args:
        boxes: float32 [N, R, 4], pixels of the canvas. R may vary while N is 1.
        maps: the pooler's feature maps [N, C, H, W], finest first: one, or four.

    Returns:
        float32 [N * R, C, P, P].

    Raises:
        Refusal: another number of maps, or a level rule that no whole fpn_scale expresses.
    """
    tail = [pooler.channels, pooler.resolution, pooler.resolution]
    n, rows = boxes.shape[:2]
    flat_rows = n * rows if isinstance(rows, int) else rows
    if len(maps) == 1:
        return _single(b, pooler, boxes, maps[0], [flat_rows, *tail])
    if len(maps) != _PYRAMID_MAPS:
        raise Refusal(f"this pooler reads {len(maps)} feature maps; known are one and {_PYRAMID_MAPS}", pooler.pooled_tensor)
    pooled = _pyramid(b, ctx, pooler, boxes, maps, [n, rows, *tail])
    return b.of(b.op("Reshape", [pooled, b.ints("rows", [-1, *tail])], "pooled", shape=[flat_rows, *tail]))


def _pyramid(
    b: Builder, ctx: Context, pooler: Pooler, boxes: Value, maps: Sequence[Value], shape: list[int | str]
) -> Value:
    image = ctx.spec().image
    if not pooler.aligned:
        boxes = _at_least_one_cell(boxes, 1 / pooler.scales[0])
    pooled = add_plugin(
        b, "PyramidROIAlign_TRT", [boxes, *maps], [("features", np.float32, shape)],
        pooled_size=pooler.resolution, fpn_scale=fpn_scale(pooler), image_size=[image.height, image.width],
        sampling_ratio=pooler.sampling_ratio, roi_coords_absolute=1, roi_coords_swap=0, roi_coords_plusone=0,
        roi_coords_transform=_HALF_PIXEL if pooler.aligned else _OUTPUT_HALF_PIXEL, legacy=0,
    )[0]  # fmt: skip
    ctx.lowering[pooled.handle.inputs[0].name] = RoiAlignLowering(level_rule="detectron2")
    return pooled


def _single(b: Builder, pooler: Pooler, boxes: Value, feature: Value, shape: list[int | str]) -> Value:
    n, rows = boxes.shape[:2]
    flat = b.of(b.op("Reshape", [boxes, b.ints("rows", [-1, 4])], "rois", shape=[shape[0], 4]))
    if pooler.aligned and pooler.sampling_ratio == 0:
        flat = _empty_ones_off_the_map(flat)
    index: gs.Tensor
    if isinstance(rows, int):
        index = b.const("image_of", np.repeat(np.arange(n, dtype=np.int32), rows))
    else:
        extent = b.op("Shape", [flat], "extent", dtype=np.int64, shape=[1], end=1)
        zero = b.op("ConstantOfShape", [extent], "image_of64", shape=[rows])
        index = b.op("Cast", [zero], "image_of", dtype=np.int32, shape=[rows], to=6)
    return add_plugin(
        b, "ROIAlign_TRT", [feature, flat, b.of(index)], [("features", np.float32, shape)],
        output_height=pooler.resolution, output_width=pooler.resolution, spatial_scale=pooler.scales[0],
        sampling_ratio=pooler.sampling_ratio, mode=1, coordinate_transformation_mode=int(pooler.aligned),
    )[0]  # fmt: skip


def _empty_ones_off_the_map(flat: Value) -> Value:
    """Adaptive sampling takes no samples of an empty box: zero in detectron2, zero by zero in the plugin."""
    filled = (shortest_side(flat, keepdims=True) > constant("empty", 0.0)).named("has_area")
    return where(filled, flat, constant("off_the_map", _OFF_THE_MAP)).named("rois_with_area")


def fpn_scale(pooler: Pooler) -> int:
    """The plugin's canonical size: it pools boxes up to half of it from its first map. Raises Refusal when not whole."""
    scale = pooler.canonical_size * 2.0 ** (pooler.min_level + 2 - pooler.canonical_level)
    if abs(scale - round(scale)) > 1e-3 or round(scale) < 1:
        raise Refusal(f"canonical size {pooler.canonical_size} at level {pooler.canonical_level} is no whole fpn_scale",
                      pooler.pooled_tensor)  # fmt: skip
    return round(scale)


def _at_least_one_cell(boxes: Value, stride: float) -> Value:
    """ROIAlign without alignment pools at least one cell. Only boxes on the finest map can be that thin."""
    low, high = corners(boxes)
    least = (low + constant("cell", float(stride))).named("one_cell")
    return concat(low, high.max(least).named("at_least_one_cell"), axis=-1).named("boxes_of_a_cell")
