"""Emits RoIAlign plugins: the pyramid's for four aligned feature maps, else one ROIAlign_TRT a map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import Pooler
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.value import Value, constant, where
from onnxgraft.passes.emit.boxes import corners, shortest_side
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.pipeline.context import Context
from onnxgraft.plugins.lowering import RoiAlignLowering

_HALF_PIXEL = 2  # PyramidROIAlign_TRT's roi_coords_transform
_PYRAMID_MAPS = 4
PROMOTES = 4e-6  # of an area; a corner in parts of the canvas is off by 2**-24, a side of an eighth by 5e-7 of it
_OFF_THE_MAP = (-8192.0, -8192.0, -8000.0, -8000.0)  # RoIAlign counts samples there as zero


def pool(
    b: Builder, ctx: Context, pooler: Pooler, boxes: Value, maps: Sequence[Value], some_empty: bool = False
) -> Value:
    """Features of boxes as detectron2's ROIPooler gives them.

    Four aligned maps are the pyramid plugin's. Other numbers of them, torchvision's rule for levels, and ROIAlign without
    alignment, which widens a thin box to a whole cell even beyond the canvas, are pooled by one ROIAlign_TRT a map, each of its
    own boxes.

    Args:
        boxes: float32 [N, R, 4], pixels of the canvas. R may vary while N is 1.
        maps: the pooler's feature maps [N, C, H, W], finest first.
        some_empty: whether boxes without width or height can be among them.

    Returns:
        float32 [N * R, C, P, P].

    Raises:
        Refusal: a level rule that no whole fpn_scale expresses.
    """
    tail = [pooler.channels, pooler.resolution, pooler.resolution]
    n, rows = boxes.shape[:2]
    flat_rows = n * rows if isinstance(rows, int) else rows
    maps = maps[: pooler.last_level + 1]
    if len(maps) == 1:
        return _single(b, pooler, boxes, maps[0], [flat_rows, *tail], pooler.scales[0])
    if len(maps) != _PYRAMID_MAPS or not pooler.aligned or pooler.level_shift:
        return _each_level(b, pooler, boxes, maps, [flat_rows, *tail])
    pooled = _pyramid(b, ctx, pooler, boxes, maps, [n, rows, *tail])
    flat = b.of(b.op("Reshape", [pooled, b.ints("rows", [-1, *tail])], "pooled", shape=[flat_rows, *tail]))
    return _nothing_of_empty_ones(b, flat, boxes) if some_empty and not pooler.sampling_ratio else flat


def _pyramid(
    b: Builder, ctx: Context, pooler: Pooler, boxes: Value, maps: Sequence[Value], shape: list[int | str]
) -> Value:
    """The plugin tells levels by the area of a box, strictly, where detectron2 promotes at equality: boxes are given in parts
    of the canvas, so that the image's size sets nothing but where levels begin, and one a little larger promotes."""
    height, width = ctx.spec().image.height, ctx.spec().image.width
    canvas = constant("canvas", np.array([width, height, width, height], np.float32))
    pooled = add_plugin(
        b, "PyramidROIAlign_TRT", [(boxes / canvas).named("in_parts"), *maps], [("features", np.float32, shape)],
        pooled_size=pooler.resolution, fpn_scale=fpn_scale(pooler), image_size=promoting_size(height, width),
        sampling_ratio=pooler.sampling_ratio, roi_coords_absolute=0, roi_coords_swap=0, roi_coords_plusone=0,
        roi_coords_transform=_HALF_PIXEL, legacy=0,
    )[0]  # fmt: skip
    ctx.lowering[pooled.handle.inputs[0].name] = RoiAlignLowering(level_rule="detectron2")
    return pooled


def promoting_size(height: int, width: int) -> list[int]:
    """An `image_size` by which boxes in parts of a canvas reach a level at its very boundary: its area is that of the canvas
    and as much more as float32 may take from the area of a box."""
    return [1, math.ceil(height * width * (1 + PROMOTES))]


def _nothing_of_empty_ones(b: Builder, pooled: Value, boxes: Value) -> Value:
    """Adaptive sampling takes no samples of an empty box: zero in detectron2, the value at the point in the plugin."""
    each = b.of(b.op("Reshape", [boxes, b.ints("each", [-1, 4])], "flat_boxes", shape=[pooled.shape[0], 4]))
    filled = _has_area(each).unsqueeze(2, 3).named("has_area_of_each")
    return where(filled, pooled, constant("nothing", 0.0)).named("pooled_with_area")


def _each_level(b: Builder, pooler: Pooler, boxes: Value, maps: Sequence[Value], shape: list[int | str]) -> Value:
    """Every map pools its own boxes; the others lie off it there, which gives zeros, so that the sum has each box once."""
    n, rows = boxes.shape[:2]
    each = b.of(b.op("Reshape", [boxes, b.ints("each", [-1, 4])], "flat_boxes", shape=[shape[0], 4]))
    level = _levels(each, pooler)
    total: Value | None = None
    for number, feature in enumerate(maps):
        mine = level.equal(constant("level", float(number))).named(f"on_level{number}")
        own = where(mine, each, constant("off_the_map", _OFF_THE_MAP)).named(f"boxes{number}")
        own = b.of(b.op("Reshape", [own, b.ints("images", [int(n), -1, 4])], f"boxes_of_level{number}", shape=[n, rows, 4]))
        pooled = _single(b, pooler, own, feature, shape, pooler.scales[number])
        total = pooled if total is None else (total + pooled).named("pooled")
    assert total is not None
    return total


def _levels(boxes: Value, pooler: Pooler) -> Value:
    """assign_boxes_to_levels (detectron2 modeling/poolers.py) or LevelMapper (torchvision ops/poolers.py), in its own steps:
    float32 [R, 1], 0 for the finest map."""
    low, high = corners(boxes)
    side = (high - low).named("sides")
    area = (side[..., 0:1].named("width") * side[..., 1:2].named("height")).named("area")
    size = (area.sqrt().named("size") / constant("canonical_size", float(pooler.canonical_size))).named("relative")
    if pooler.epsilon:
        size = (size + constant("epsilon", float(pooler.epsilon))).named("not_zero")
    octave = (size.log().named("log") / constant("ln2", np.log(np.float32(2)))).named("octaves")
    level = (octave + constant("canonical_level", float(pooler.canonical_level))).named("level_number")
    if pooler.level_shift:
        level = (level + constant("shift", float(pooler.level_shift))).named("shifted")
    level = level.floor().named("whole")
    level = (level - constant("finest", float(pooler.min_level))).named("from_finest")
    level = level.max(constant("first", 0.0)).named("not_finer")
    return level.min(constant("last", float(pooler.last_level))).named("level")


def _single(
    b: Builder, pooler: Pooler, boxes: Value, feature: Value, shape: list[int | str], scale: float
) -> Value:
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
        output_height=pooler.resolution, output_width=pooler.resolution, spatial_scale=scale,
        sampling_ratio=pooler.sampling_ratio, mode=1, coordinate_transformation_mode=int(pooler.aligned),
    )[0]  # fmt: skip


def _empty_ones_off_the_map(flat: Value) -> Value:
    """Adaptive sampling takes no samples of an empty box: zero in detectron2, zero by zero in the plugin."""
    return where(_has_area(flat), flat, constant("off_the_map", _OFF_THE_MAP)).named("rois_with_area")


def _has_area(boxes: Value) -> Value:
    """bool [R, 1] of boxes [R, 4]."""
    return (shortest_side(boxes, keepdims=True) > constant("empty", 0.0)).named("has_area")


def fpn_scale(pooler: Pooler) -> int:
    """The plugin's canonical size: it pools boxes up to half of it from its first map. Raises Refusal when not whole."""
    scale = pooler.canonical_size * 2.0 ** (pooler.min_level + 2 - pooler.canonical_level)
    if abs(scale - round(scale)) > 1e-3 or round(scale) < 1:
        raise Refusal(f"canonical size {pooler.canonical_size} at level {pooler.canonical_level} is no whole fpn_scale",
                      pooler.pooled_tensor)  # fmt: skip
    return round(scale)
