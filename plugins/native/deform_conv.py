"""Deformable convolution as gathers and MatMul, in ops that TensorRT for RTX builds.

The map becomes a table of rows, channels last. A sample point of a tap reads four rows with bilinear
weights times the mask; a row off the map weighs nothing. The samples [points, taps * channels] times
the kernel [taps * channels, outputs] are the convolution. Positions and weights are float32 always.

A table's row holds the channels of one split: as many splits as both the convolution's groups and
the deformable groups divide into. Index tensors are laid out so that the Gather itself brings the
samples of a group together, and no large tensor is ever transposed.

Samples of all taps at once are `kH * kW` times the map. Taps are taken in chunks that stay under
CHUNK_BYTES, and their products added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxgraft.ir.value import Value, where
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.op import Shape
from onnxgraft.plugins.schema import Attribute, choice

CHUNK_BYTES = 128 << 20
"""Largest tensor of samples; four of them are gathered for one sum."""

OPTIONS: tuple[Attribute, ...] = (
    choice(
        "multiply", "fp32", ("fp32", "fp16", "bf16"),
        "type of the samples and the product; positions and bilinear weights are float32, as are inputs and output",
    ),
    Attribute(
        "taps", "int", "kernel taps sampled at a time, at most; 0: as many as keep the samples under 128 MiB",
        0, allowed="0 or more", check=lambda v: v >= 0,
    ),
)  # fmt: skip

_KINDS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What is static: sizes in cells, and the grid that offsets are added to."""

    batch: int
    channels: int
    height: int
    width: int
    outputs: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: int
    dilation: int
    padding: tuple[int, int]
    group: int
    deformable: int

    @staticmethod
    def of(attrs: Mapping[str, Any], shapes: Sequence[Shape]) -> Sampling:
        """From validated attributes and input shapes of ModulatedDeformConv2d."""
        x, offset, _, weight, _ = shapes
        across, down = attrs["padding"]
        return Sampling(
            batch=x[0], channels=x[1], height=x[2], width=x[3], outputs=weight[0], out_height=offset[2],
            out_width=offset[3], kernel=(weight[2], weight[3]), stride=attrs["stride"][0], dilation=attrs["dilation"][0],
            padding=(down, across), group=attrs["group"], deformable=attrs["deformable_group"],
        )  # fmt: skip

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def points(self) -> int:
        return self.batch * self.out_height * self.out_width

    @property
    def splits(self) -> int:
        """Parts of the channels that share group and deformable group."""
        return math.lcm(self.group, self.deformable)

    def grid(self, axis: int) -> np.ndarray:
        """Where taps read without offsets: float32 [cells, 1, taps] along y (0) or [1, cells, taps] along x (1)."""
        cells = (self.out_height, self.out_width)[axis]
        tap = np.arange(self.taps)
        tap = tap // self.kernel[1] if axis == 0 else tap % self.kernel[1]
        at = np.arange(cells)[:, None] * self.stride - self.padding[axis] + tap[None, :] * self.dilation
        return np.expand_dims(at, 1 - axis).astype(np.float32)


def lowered(s: Sampling, shapes: Sequence[Shape], options: Mapping[str, Any]) -> onnx.GraphProto:
    """The op as a graph; `options` are complete."""
    kind = _KINDS[options["multiply"]]
    b = Builder()
    x, weight, bias = (_cast(b.input(name), kind) for name in ("x", "weight", "bias"))
    width = s.channels // s.splits
    rows = x.transpose(0, 2, 3, 1).reshape(s.batch * s.height * s.width * s.splits, width)
    corners = _corners(b, s)

    inner = s.splits // s.group
    kernel = weight.reshape(s.group, s.outputs // s.group, inner, width, s.taps)
    kernel = kernel.transpose(0, 2, 4, 3, 1)  # [g, inner, taps, width, D/g]

    total: Value | None = None
    size = options["taps"] or max(1, CHUNK_BYTES // (s.points * s.channels * (4 if kind == TensorProto.FLOAT else 2)))
    for first in range(0, s.taps, size):
        chosen = np.arange(first, min(first + size, s.taps))
        samples = _read(b, s, rows, corners, chosen, kind)
        part = kernel if len(chosen) == s.taps else kernel.take(chosen, axis=2)
        depth = inner * len(chosen) * width
        product = b.op(
            "MatMul", samples.reshape(s.group, s.points, depth), part.reshape(s.group, depth, s.outputs // s.group)
        )
        total = product if total is None else total + product
    assert total is not None

    cells = s.out_height * s.out_width
    total = total.reshape(s.group, s.batch, cells, s.outputs // s.group)
    total = total.transpose(1, 0, 3, 2).reshape(s.batch, s.outputs, s.out_height, s.out_width)
    total = total + bias.reshape(1, s.outputs, 1, 1)
    b.output(total if kind == TensorProto.FLOAT else total.cast(TensorProto.FLOAT), "output")
    names = ("x", "offset", "mask", "weight", "bias")
    return b.graph(
        "deform_conv",
        [tensor_info(name, shape) for name, shape in zip(names, shapes, strict=True)],
        [tensor_info("output", (s.batch, s.outputs, s.out_height, s.out_width))],
    )


def _cast(value: Value, kind: int) -> Value:
    """A float32 value in another type."""
    return value if kind == TensorProto.FLOAT else value.cast(kind)


def _corners(b: Builder, s: Sampling) -> list[tuple[Value, Value]]:
    """The four cells around each sample, as (number of the cell int32, weight float32), [g, points, inner, taps].

    The first and third dimension are 1 when all channels share the offsets.
    """
    offset = b.input("offset").reshape(s.batch, s.deformable, s.taps, 2, s.out_height, s.out_width)
    offset = offset.transpose(0, 4, 5, 1, 2, 3)  # [N, oH, oW, G, taps, 2]
    mask = b.input("mask").reshape(s.batch, s.deformable, s.taps, s.out_height, s.out_width)
    mask = mask.transpose(0, 3, 4, 1, 2)
    lines = _axis(b, offset.take(0, axis=5) + np.expand_dims(s.grid(0), 2)[None], s.height)
    columns = _axis(b, offset.take(1, axis=5) + np.expand_dims(s.grid(1), 2)[None], s.width)
    image = np.arange(s.batch, dtype=np.int32).reshape(-1, 1, 1, 1, 1) * np.int32(s.height * s.width)
    corners = []
    for line, weight_y in lines:
        start = line * np.int32(s.width) + image
        share = weight_y * mask
        for column, weight_x in columns:
            corners.append((_by_group(b, s, start + column), _by_group(b, s, share * weight_x)))
    return corners


def _axis(b: Builder, at: Value, cells: int) -> list[tuple[Value, Value]]:
    """(cell int32, weight float32) of the lower and the upper neighbour of a position along one axis."""
    at = where(at > -1.0, at, -1.0).min(float(cells))  # what is not a number is off the map
    lower = at.floor()
    part = at - lower
    neighbours = []
    for cell, weight in ((lower, 1.0 - part), (lower + 1.0, part)):
        inside = cell.max(0.0).min(float(cells - 1))
        neighbours.append((inside.cast(TensorProto.INT32), where(inside.equal(cell), weight, 0.0)))
    return neighbours


def _by_group(b: Builder, s: Sampling, value: Value) -> Value:
    """[N, oH, oW, G, taps] as [g, points, inner, taps], each split with its deformable group's values."""
    if s.deformable == 1:
        return value.reshape(1, s.points, 1, s.taps)
    inner = s.splits // s.group
    value = value.reshape(s.points, s.deformable, s.taps)
    value = value.take(np.arange(s.splits) // (s.splits // s.deformable), axis=1)
    return value.reshape(s.points, s.group, inner, s.taps).transpose(1, 0, 2, 3)


def _read(
    b: Builder, s: Sampling, rows: Value, corners: Sequence[tuple[Value, Value]], taps: np.ndarray, kind: int
) -> Value:
    """Samples of some taps, [g, points, inner, taps, width]."""
    split = np.arange(s.splits, dtype=np.int32).reshape(s.group, 1, s.splits // s.group, 1)
    total: Value | None = None
    for cell, weight in corners:
        if len(taps) < s.taps:
            cell, weight = cell.take(taps, axis=3), weight.take(taps, axis=3)
        row = cell * np.int32(s.splits) + split if s.splits > 1 else cell
        read = rows.take(row) * _cast(weight.unsqueeze(4), kind)
        total = read if total is None else total + read
    assert total is not None
    return total
