"""ModulatedDeformConv2d, version 1: deformable convolution (v2, with a mask) on one map.

Formula source: TensorRT OSS 11.1, plugin/modulatedDeformConvPlugin (read for facts), which computes
what detectron2's ModulatedDeformConv and torchvision's deform_conv2d do. Tap (i, j) of the kernel at
output (y, x) reads the map bilinearly at

    y * stride - padding + i * dilation + dy,   x * stride - padding + j * dilation + dx

times the mask; what lies off the map is zero, so that a point between the last cell and one cell
beyond it fades out. Offsets come as dy, dx per deformable group and tap. Version 2 (from TensorRT
10.11) has the same inputs and attributes; version 1 loads in 10.0 to 11.1.

Traps: (1) the two numbers of stride, padding and dilation are width first in the plugin, height
first in ONNX (derived), which is why unequal strides and dilations are refused. (2) With fp16 inputs
the plugin computes sampling positions in fp16, in steps of 1/8 cell from 128 on (derived): keep it
in fp32. (3) It takes no missing mask; without one, give ones. The bias may be missing there, not here.

An offset that is not a number reads zero in `lower`; it is undefined in the plugin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto

from onnxgraft.errors import PluginError
from onnxgraft.ir.value import concat
from onnxgraft.plugins.builder import Builder
from onnxgraft.plugins.native.deform_conv import OPTIONS, Sampling, lowered
from onnxgraft.plugins.op import PluginOp, Shape
from onnxgraft.plugins.schema import Attribute

_INT, _INTS = AttributeProto.INT, AttributeProto.INTS
DEFORM_CONV_OPSET = 19
"""The first opset with DeformConv."""


class ModulatedDeformConv2d(PluginOp):
    """x [N,C,H,W], offset [N,2*G*K,oH,oW], mask [N,G*K,oH,oW], weight [D,C/g,kH,kW], bias [D] -> output [N,D,oH,oW].

    K = kH * kW taps, G deformable groups, g groups; all float32.
    """

    op_type = "ModulatedDeformConv2d"
    version = "1"
    inputs = ("x", "offset", "mask", "weight", "bias")
    outputs = ("output",)
    targets = frozenset({"tensorrt"})
    releases = (("8.6", "1"),)
    deprecated = "10.11"
    group = "deform-conv"
    attributes = (
        Attribute(
            "stride", "ints", "cells between outputs, twice the same", required=True,
            allowed="twice the same positive number", check=lambda v: len(v) == 2 and v[0] == v[1] > 0,
        ),
        Attribute(
            "padding", "ints", "zeros before and after: across, down", required=True,
            allowed="two numbers of 0 or more", check=lambda v: len(v) == 2 and min(v) >= 0,
        ),
        Attribute(
            "dilation", "ints", "cells between taps, twice the same", required=True,
            allowed="twice the same positive number", check=lambda v: len(v) == 2 and v[0] == v[1] > 0,
        ),
        Attribute(
            "group", "int", "groups of the convolution", required=True,
            allowed="at least 1", check=lambda v: v >= 1,
        ),
        Attribute(
            "deformable_group", "int", "groups of channels with offsets of their own", required=True,
            allowed="at least 1", check=lambda v: v >= 1,
        ),
    )  # fmt: skip
    options = OPTIONS

    def infer_shapes(self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape]) -> list[Shape]:
        self.validate(attrs, input_shapes)
        _, offset, _, weight, _ = input_shapes
        return [(offset[0], weight[0], offset[2], offset[3])]

    def _check(self, attrs: Mapping[str, Any], shapes: list[Shape], where: str) -> None:
        for name, shape, rank in zip(self.inputs, shapes, (4, 4, 4, 4, 1), strict=True):
            if len(shape) != rank:
                raise PluginError(f"{where}: {name} {list(shape)} must have {rank} dimensions")
        x, offset, mask, weight, bias = shapes
        group, deformable = attrs["group"], attrs["deformable_group"]
        taps = weight[2] * weight[3]
        if x[1] != weight[1] * group or weight[0] % group:
            raise PluginError(f"{where}: weight {list(weight)} does not fit {x[1]} channels in {group} groups")
        if x[1] % deformable:
            raise PluginError(f"{where}: {x[1]} channels do not divide into deformable_group={deformable}")
        if bias != weight[:1]:
            raise PluginError(f"{where}: bias {list(bias)} must be [{weight[0]}]")
        size = output_size(attrs, x, weight)
        for name, shape, each in (("offset", offset, 2), ("mask", mask, 1)):
            wanted = (x[0], each * deformable * taps, *size)
            if shape != wanted:
                raise PluginError(f"{where}: {name} {list(shape)} must be {list(wanted)}")

    def function(self, opset: int = DEFORM_CONV_OPSET) -> onnx.FunctionProto:
        """ONNX DeformConv over a padded map: at opset 19 or later, whatever `opset` says."""
        b = Builder(function=True)
        sides = b.attribute("padding", _INTS).take([1, 0])
        none = b.constant(np.zeros(2, np.int64))
        padded = b.op("Pad", b.input("x"), concat(none, sides, none, sides, axis=0))
        result = b.referring(
            "DeformConv", padded, *(b.input(n) for n in ("weight", "offset", "bias", "mask")),
            references={
                "strides": ("stride", _INTS),
                "dilations": ("dilation", _INTS),
                "group": ("group", _INT),
                "offset_group": ("deformable_group", _INT),
            },
        )  # fmt: skip
        b.output(result, "output")
        return self._function(b.nodes, max(opset, DEFORM_CONV_OPSET))

    def lower(
        self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape], options: Mapping[str, Any] | None = None
    ) -> onnx.GraphProto:
        """See `native.deform_conv`."""
        a = self.validate(attrs, input_shapes)
        sampling = Sampling.of(a, input_shapes)
        return lowered(sampling, input_shapes, self.lowering_options(options))


def output_size(attrs: Mapping[str, Any], x: Shape, weight: Shape) -> tuple[int, int]:
    """Height and width of the result."""
    across, down = attrs["padding"]
    height, width = (
        (cells + 2 * pad - attrs["dilation"][0] * (taps - 1) - 1) // attrs["stride"][0] + 1
        for cells, pad, taps in zip(x[2:], (down, across), weight[2:], strict=True)
    )
    return height, width
