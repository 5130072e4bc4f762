"""PyramidROIAlign_TRT in ops that TensorRT for RTX builds: each box's level first, then RoiAlign as gathers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxgraft.ir.value import Value, where
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.bilinear import Axis, Pooling
from onnxgraft.plugins.native.roi_align import map_rows, map_type, output_graph, pool
from onnxgraft.plugins.op import Shape

MAPS = ("map_0", "map_1", "map_2", "map_3")


def lowered(a: Mapping[str, Any], shapes: Sequence[Shape], options: Mapping[str, Any]) -> onnx.GraphProto:
    """The op as a graph.

    Args:
        a: complete attributes of PyramidROIAlign_TRT.
        shapes: of rois [N,R,4] and of the four maps [N,C,H,W], finest first.
        options: complete options of its lowering.
    """
    dtype = TensorProto.FLOAT if options["dtype"] == "float32" else TensorProto.FLOAT16
    narrow = map_type(options, dtype)
    (batch, per_image, _), map_shapes = shapes[0], shapes[1:]
    boxes, bins, channels = batch * per_image, a["pooled_size"], map_shapes[0][1]
    b = Builder()
    rois = b.input("rois").reshape(boxes, 4)
    if a["roi_coords_swap"]:
        rois = rois.take([1, 0, 3, 2], axis=1)
    image = np.array([[a["image_size"][1], a["image_size"][0]]], np.float32)
    size = image if a["roi_coords_absolute"] else np.ones((1, 2), np.float32)
    low, high = normalise(rois, size)
    by_area = options["level_rule"] == "detectron2"
    level = _detectron2_level(a, rois, image) if by_area else _plugin_level(a, high - low, image)
    cells, lines, area, first = _tables(batch, map_shapes)
    base = b.constant(first).take(level)
    if batch > 1:
        image_of = np.repeat(np.arange(batch, dtype=np.int32), per_image)[:, None]
        base = base + b.constant(area).take(level) * image_of
    extent = b.constant(cells).take(level)
    shift = 0.5 if a["roi_coords_transform"] == 2 else 0.0
    start, stop = low * extent - shift, high * extent - shift
    step = (stop - start) / float(bins)
    adaptive = step.ceil().max(1.0)
    x, y = (Axis(*(v.take([i], axis=1) for v in (start, step, extent, adaptive))) for i in (0, 1))
    rows = map_rows(b, [b.input(name) for name in MAPS], map_shapes)
    pooling = Pooling(
        height=bins, width=bins, channels=channels, boxes=boxes, sampling_ratio=a["sampling_ratio"],
        roi_sampling=options["roi_sampling"], dtype=dtype, roi_groups=options["roi_groups"],
        offset=0.0 if a["roi_coords_transform"] == 0 else 0.5, narrow=narrow != dtype,
    )  # fmt: skip
    pooled = pool(b, rows, base, b.constant(lines).take(level), y, x, pooling)
    infos = [
        tensor_info("rois", shapes[0]),
        *(tensor_info(name, shape, narrow) for name, shape in zip(MAPS, map_shapes, strict=True)),
    ]
    return output_graph(b, "pyramid_roi_align", infos, pooled, "pooled", (batch, per_image, channels, bins, bins), dtype)


def _tables(batch: int, maps: Sequence[Shape]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each map in a row of its own: width and height (float32 [4,2]), and int32 [4,1] each: width, cells of an image,
    and the map's first row in the table of all maps and images."""
    cells = np.array([[w, h] for _, _, h, w in maps], np.float32)
    lines = np.array([[w] for _, _, _, w in maps], np.int32)
    area = np.array([h * w for _, _, h, w in maps], np.int32)
    first = np.concatenate([[0], np.cumsum(area[:-1] * batch)]).astype(np.int32)
    return cells, lines, area[:, None], first[:, None]


def _detectron2_level(a: Mapping[str, Any], rois: Value, image: np.ndarray) -> Value:
    """int32 level [R] of detectron2's assign_boxes_to_levels, promoting at equality."""
    span = rois.take([2, 3], axis=1) - rois.take([0, 1], axis=1)
    if not a["roi_coords_absolute"]:
        span = span * image
    area = span.take(0, axis=1) * span.take(1, axis=1)
    size = area.max(0.0).sqrt() / float(a["fpn_scale"]) + 1e-8
    number = (size.log() / np.log(np.float32(2)) + 4.0).floor()
    return (number - 2.0).max(0.0).min(3.0).cast(np.int32)


def _plugin_level(a: Mapping[str, Any], side: Value, image: np.ndarray) -> Value:
    """int32 level [R] of the plugin: how many thresholds the area exceeds; `side` float32 [R,2] in parts of the image."""
    if a["roi_coords_plusone"]:
        side = side + np.float32(1) / image
    area = side.take(0, axis=1) * side.take(1, axis=1)
    first = first_threshold(a["fpn_scale"], a["image_size"])
    above = [(area > first * np.float32(f)).cast(np.int32) for f in (1, 4, 16)]
    return above[0] + above[1] + above[2]


def first_threshold(fpn_scale: int, image_size: Sequence[int]) -> np.float32:
    """Normalised area above which a box leaves level 0, in the plugin's own float32 steps."""
    scale = np.float32(fpn_scale)
    norm = np.sqrt(scale * scale / np.float32(image_size[0] * image_size[1]))
    return np.float32(norm * norm / np.float32(4))


def normalise(rois: Value, size: Value | np.ndarray) -> tuple[Value, Value]:
    """Ordered corners clamped to 0..size and divided by it, each float32 [R, 2] as x, y in 0..1.

    A NaN takes the other corner's value, or the far edge where both are NaN, as the GPU's
    min and max do.
    """
    one, two = rois.take([0, 1], axis=1), rois.take([2, 3], axis=1)
    one = where(one.isnan(), two, one)
    two = where(two.isnan(), one, two)
    one = where(one.isnan(), size, one)
    two = where(two.isnan(), size, two)

    def clamp(value: Value) -> Value:
        return value.min(size).max(0.0) / size

    return clamp(one.min(two)), clamp(one.max(two))
