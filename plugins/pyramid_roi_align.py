"""PyramidROIAlign_TRT, version 1: RoIAlign of each box on its own level of a four-level pyramid.

Formula source: TensorRT OSS 11.1, plugin/pyramidROIAlignPlugin and roiAlign_kernel of
plugin/common/kernels/maskRCNNKernels.cu (read for facts). For each box:

1. Corners are ordered, clamped to the image and divided by its size.
2. area = h * w (with 1/size added to each side by plusone); level 0..3 counts the thresholds
   (fpn_scale^2 / (H*W) / 4) * {1, 4, 16} that the area exceeds, strictly.
3. On that level, start = corner * map size - (0.5 with transform 2), bins of equal size, and
   r = sampling_ratio, or max(1, ceil(bin)) where it is 0, samples per bin and axis.
4. A sample sits in the middle of its part of the bin (transform 1 and 2) or at its edge
   (transform 0), is clamped to the map and read bilinearly; a bin is the mean of its samples.

Deviations of `function`: a side shorter than 2^-12 cells is taken as that long (ONNX RoiAlign
would give 0 for an empty side, the plugin the value at the point); transform 0 and 1 reach their
offset by moving the box, which rounds coordinates once more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from onnxgraft.errors import PluginError
from onnxgraft.ir.value import Value, concat, where
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.roi_align import OPTIONS, Axis, Pooling, map_rows, output_graph, pool
from onnxgraft.plugins.op import PluginOp, Shape
from onnxgraft.plugins.schema import Attribute, choice, flag

LEVELS = 4
SHORTEST = float(2.0**-12)
"""Cells; sides below this are stretched to it in the function."""
_INT, _INTS = AttributeProto.INT, AttributeProto.INTS


class PyramidROIAlign(PluginOp):
    """rois [N,R,4] float32, four maps [N,C,H,W] float32, finest first -> [N,R,C,P,P] float32."""

    op_type = "PyramidROIAlign_TRT"
    version = "1"
    inputs = ("rois", "map_0", "map_1", "map_2", "map_3")
    outputs = ("pooled",)
    targets = frozenset({"tensorrt"})
    group = "roi-align"
    attributes = (
        Attribute(
            "pooled_size", "int", "bins per side of the output, P",
            required=True, allowed="at least 1", check=lambda v: v >= 1,
        ),
        Attribute(
            "image_size", "ints", "height and width in pixels that rois refer to",
            required=True, allowed="two positive numbers [height, width]",
            check=lambda v: len(v) == 2 and min(v) >= 1,
        ),
        Attribute(
            "fpn_scale", "int", "box size in pixels at which level 2 begins",
            224, allowed="at least 1", check=lambda v: v >= 1,
        ),
        Attribute(
            "sampling_ratio", "int", "samples per bin and axis; 0: adaptive, ceil of the bin",
            0, allowed="0 or more", check=lambda v: v >= 0,
        ),
        flag("roi_coords_absolute", 1, "1: rois in pixels; 0: in 0..1"),
        flag("roi_coords_swap", 0, "1: rois are y1,x1,y2,x2"),
        flag("roi_coords_plusone", 0, "1: add a pixel to each side when the level is chosen"),
        Attribute(
            "roi_coords_transform", "int",
            "0: no half pixel; 1: half pixel at the output (aligned=False without its one-cell "
            "minimum); 2: half pixel (aligned=True)",
            2, allowed="0, 1 or 2 (-1, the TensorRT 7 sampling, is not supported)",
            check=lambda v: v in (0, 1, 2),
        ),
        Attribute(
            "legacy", "int", "the UFF era's behaviour", 0, allowed="0 (1 is not supported)",
            check=lambda v: v == 0,
        ),
    )  # fmt: skip
    options = (
        *OPTIONS,
        choice(
            "level_rule", "plugin", ("plugin", "detectron2"),
            "plugin: area of the clamped box against thresholds, strictly; detectron2: "
            "floor(4 + log2(sqrt(area) / fpn_scale + 1e-8)) in float32, promoting at equality",
        ),
    )  # fmt: skip

    def infer_shapes(
        self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape]
    ) -> list[Shape]:
        size = self.validate(attrs, input_shapes)["pooled_size"]
        (batch, rois, _), (_, channels, _, _) = input_shapes[0], input_shapes[1]
        return [(batch, rois, channels, size, size)]

    def _check(self, attrs: Mapping[str, Any], shapes: list[Shape], where: str) -> None:
        rois, maps = shapes[0], shapes[1:]
        if len(rois) != 3 or rois[2] != 4:
            raise PluginError(f"{where}: rois {list(rois)} must be [N, R, 4]")
        for name, shape in zip(self.inputs[1:], maps, strict=True):
            if len(shape) != 4 or shape[:2] != (rois[0], maps[0][1]):
                raise PluginError(
                    f"{where}: {name} {list(shape)} must be [{rois[0]}, C, H, W] "
                    "with the same C on every level"
                )

    def function(self, opset: int = 17) -> onnx.FunctionProto:
        b = Builder(function=True)
        rois, maps = b.input("rois"), [b.input(name) for name in self.inputs[1:]]
        height_width = b.attribute("image_size", _INTS)
        image = height_width.take([1, 0]).cast(TensorProto.FLOAT)  # w, h
        per_image = rois.sizes().take([1])
        flat = rois.reshape(-1, 4)
        total = flat.sizes().take([0]).squeeze()
        everyone = b.op("Range", 0, total, 1)
        image_of = everyone / per_image.max(1)

        swap = b.attribute("roi_coords_swap", _INT).equal(1)
        columns = where(swap, [1, 0, 3, 2], [0, 1, 2, 3])
        absolute = b.attribute("roi_coords_absolute", _INT).equal(1)
        low, high = _normalise(b, flat.take(columns, axis=1), where(absolute, image, 1.0))
        side = high - low
        one = b.attribute("roi_coords_plusone", _INT).cast(TensorProto.FLOAT)
        side = side + one / image
        area = side.take(0, axis=1) * side.take(1, axis=1)
        level = self._level(b, area, height_width)

        pooled, order = [], []
        for number, values in enumerate(maps):
            mine = b.op("NonZero", level.equal(number)).squeeze(0)
            size = values.sizes().take([3, 2]).cast(TensorProto.FLOAT)
            start, stop = low.take(mine) * size, high.take(mine) * size
            stop = stop.max(start + SHORTEST)
            move = self._offset(b, stop - start)
            boxes = concat(start + move, stop + move, axis=1)
            pooled.append(
                b.referring(
                    "RoiAlign", values, boxes, image_of.take(mine),
                    references={
                        "output_height": ("pooled_size", _INT),
                        "output_width": ("pooled_size", _INT),
                        "sampling_ratio": ("sampling_ratio", _INT),
                    },
                    coordinate_transformation_mode="half_pixel", mode="avg", spatial_scale=1.0,
                )
            )  # fmt: skip
            order.append(mine)
        place = b.op("ScatterElements", everyone, concat(*order, axis=0), everyone, axis=0)
        result = concat(*pooled, axis=0).take(place)
        shape = concat(
            rois.sizes().take([0, 1]),
            maps[0].sizes().take([1]),
            b.attribute("pooled_size", _INT).reshape(1),
            b.attribute("pooled_size", _INT).reshape(1),
            axis=0,
        )
        b.output(b.op("Reshape", result, shape, allowzero=1), "pooled")
        return self._function(b.nodes, opset)

    def _level(self, b: Builder, area: Value, height_width: Value) -> Value:
        """int64 level 0..3 of each box, in the plugin's own float32 steps."""
        scale = b.attribute("fpn_scale", _INT).cast(TensorProto.FLOAT)
        pixels = b.op("ReduceProd", height_width, keepdims=0).cast(TensorProto.FLOAT)
        norm = (scale * scale / pixels).sqrt()
        first = norm * norm / 4.0
        above = [(area > first * factor).cast(TensorProto.INT64) for factor in (1.0, 4.0, 16.0)]
        return above[0] + above[1] + above[2]

    def _offset(self, b: Builder, side: Value) -> Value:
        """What to add to boxes so that half_pixel RoiAlign samples as roi_coords_transform says."""
        transform = b.attribute("roi_coords_transform", _INT)
        size = side / b.attribute("pooled_size", _INT).cast(TensorProto.FLOAT)
        ratio = b.attribute("sampling_ratio", _INT).cast(TensorProto.FLOAT)
        samples = where(ratio > 0.0, ratio, size.ceil().max(1.0))
        edge = 0.5 - size * 0.5 / samples
        return where(transform.equal(2), 0.0, where(transform.equal(1), 0.5, edge))

    def lower(
        self,
        attrs: Mapping[str, Any],
        input_shapes: Sequence[Shape],
        options: Mapping[str, Any] | None = None,
    ) -> onnx.GraphProto:
        """See `native_roi_align` for the sampling options."""
        a = self.validate(attrs, input_shapes)
        chosen = self.lowering_options(options)
        dtype = TensorProto.FLOAT if chosen["dtype"] == "float32" else TensorProto.FLOAT16
        (batch, per_image, _), map_shapes = input_shapes[0], input_shapes[1:]
        boxes, bins, channels = batch * per_image, a["pooled_size"], map_shapes[0][1]

        b = Builder()
        rois = b.input("rois").reshape(boxes, 4)
        if a["roi_coords_swap"]:
            rois = rois.take([1, 0, 3, 2], axis=1)
        image = np.array([[a["image_size"][1], a["image_size"][0]]], np.float32)
        size = image if a["roi_coords_absolute"] else np.ones((1, 2), np.float32)
        low, high = _normalise(b, rois, size)
        level = self._static_level(b, a, chosen["level_rule"], rois, low, high, image)

        cells = np.array([[w, h] for _, _, h, w in map_shapes], np.float32)
        lines = np.array([[w] for _, _, _, w in map_shapes], np.int32)
        area = np.array([h * w for _, _, h, w in map_shapes], np.int32)
        first = np.concatenate([[0], np.cumsum(area[:-1] * batch)]).astype(np.int32)
        image_of = np.repeat(np.arange(batch, dtype=np.int32), per_image)[:, None]
        base = b.constant(first[:, None]).take(level)
        if batch > 1:
            base = base + b.constant(area[:, None]).take(level) * image_of
        extent = b.constant(cells).take(level)  # [R, 2] w, h
        shift = 0.5 if a["roi_coords_transform"] == 2 else 0.0
        start, stop = low * extent - shift, high * extent - shift
        step = (stop - start) / float(bins)
        adaptive = step.ceil().max(1.0)
        x, y = (
            Axis(*(v.take([i], axis=1) for v in (start, step, extent, adaptive)))
            for i in (0, 1)
        )
        rows = map_rows(b, [b.input(name) for name in self.inputs[1:]], map_shapes)
        pooling = Pooling(
            height=bins, width=bins, channels=channels, boxes=boxes,
            sampling_ratio=a["sampling_ratio"], roi_sampling=chosen["roi_sampling"], dtype=dtype,
            roi_groups=chosen["roi_groups"],
            offset=0.0 if a["roi_coords_transform"] == 0 else 0.5,
        )  # fmt: skip
        pooled = pool(b, rows, base, b.constant(lines).take(level), y, x, pooling)
        infos = [
            tensor_info("rois", input_shapes[0]),
            *(tensor_info(n, s, dtype) for n, s in zip(self.inputs[1:], map_shapes, strict=True)),
        ]
        shape = (batch, per_image, channels, bins, bins)
        return output_graph(b, "pyramid_roi_align", infos, pooled, "pooled", shape, dtype)

    def _static_level(
        self,
        b: Builder,
        a: Mapping[str, Any],
        rule: str,
        rois: Value,
        low: Value,
        high: Value,
        image: np.ndarray,
    ) -> Value:
        """int32 level [R] by either rule."""
        if rule == "detectron2":
            span = rois.take([2, 3], axis=1) - rois.take([0, 1], axis=1)
            if not a["roi_coords_absolute"]:
                span = span * image
            area = span.take(0, axis=1) * span.take(1, axis=1)
            size = area.max(0.0).sqrt() / float(a["fpn_scale"]) + 1e-8
            number = (size.log() / np.log(np.float32(2)) + 4.0).floor()
            return (number - 2.0).max(0.0).min(3.0).cast(TensorProto.INT32)
        side = high - low
        if a["roi_coords_plusone"]:
            side = side + np.float32(1) / image
        area = side.take(0, axis=1) * side.take(1, axis=1)
        first = first_threshold(a["fpn_scale"], a["image_size"])
        above = [(area > first * np.float32(f)).cast(TensorProto.INT32) for f in (1, 4, 16)]
        return above[0] + above[1] + above[2]


def promoting_image_size(height: int, width: int) -> list[int]:
    """An image_size that makes the plugin promote a box at equality, as detectron2 does.

    For nodes with roi_coords_absolute 0 (rois divided by the image's size beforehand) and plusone
    0, image_size only sets the level thresholds, by its product. A product larger by 3e-6 lowers
    them by more than float32 rounds an area, so that a box of exactly 112, 224 or 448 pixels
    goes to the coarser level; only boxes within 3e-6 below a threshold are moved with it.
    """
    pixels = height * width
    return [1, pixels + max(1, math.ceil(3e-6 * pixels))]


def first_threshold(fpn_scale: int, image_size: Sequence[int]) -> np.float32:
    """Normalised area above which a box leaves level 0, in the plugin's own float32 steps."""
    scale = np.float32(fpn_scale)
    norm = np.sqrt(scale * scale / np.float32(image_size[0] * image_size[1]))
    return np.float32(norm * norm / np.float32(4))


def _normalise(b: Builder, rois: Value, size: Value | np.ndarray) -> tuple[Value, Value]:
    """Ordered corners clamped to 0..size and divided by it, each [R, 2] as x, y.

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
