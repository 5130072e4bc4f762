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

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

from onnxgraft.errors import PluginError
from onnxgraft.ir.value import Value, concat, where
from onnxgraft.plugins.builder import Builder
from onnxgraft.plugins.native.pyramid_roi_align import lowered, normalise
from onnxgraft.plugins.native.roi_align import OPTIONS
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
    releases = (("8.5", "1"),)
    deprecated = "11.0"
    group = "roi-align"
    selected = inputs[1:]
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

    def infer_shapes(self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape]) -> list[Shape]:
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
        low, high = normalise(flat.take(columns, axis=1), where(absolute, image, 1.0))
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
            pooled.append(self._pooled(b, values, start, stop, image_of, mine))
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

    def _pooled(self, b: Builder, values: Value, start: Value, stop: Value, image_of: Value, mine: Value) -> Value:
        """[R,C,P,P] of boxes from `start` to `stop`, float32 [R,2] x and y in cells of the map; `mine`: which boxes."""
        stop = stop.max(start + SHORTEST)
        move = self._offset(b, stop - start)
        boxes = concat(start + move, stop + move, axis=1)
        return b.referring(
            "RoiAlign", values, boxes, image_of.take(mine),
            references={
                "output_height": ("pooled_size", _INT),
                "output_width": ("pooled_size", _INT),
                "sampling_ratio": ("sampling_ratio", _INT),
            },
            coordinate_transformation_mode="half_pixel", mode="avg", spatial_scale=1.0,
        )  # fmt: skip

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
        self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape], options: Mapping[str, Any] | None = None
    ) -> onnx.GraphProto:
        """See `native.roi_align` for the sampling options."""
        return lowered(self.validate(attrs, input_shapes), input_shapes, self.lowering_options(options))
