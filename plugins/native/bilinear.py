"""Bilinear samples of boxes out of a table of rows: the part of native RoIAlign that one sample position needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxgraft.ir.value import Value, where
from onnxgraft.plugins.builder import Builder


@dataclass(frozen=True)
class Axis:
    """One axis of all boxes on their own map, in cells; every value is float32 [R, 1].

    start: where the first bin begins; bin: its size; cells: the map's size along the axis;
    adaptive: samples per bin that the op itself would take (a whole number as float).
    """

    start: Value
    bin: Value
    cells: Value
    adaptive: Value


@dataclass(frozen=True)
class Pooling:
    """What is static: output bins, samples, and how points off the map count.

    offset: position of a sample in its part of the bin (0.5 centre, 0 edge);
    zero_outside: points more than a cell off the map count as zero instead of being clamped;
    narrow: the table's type is narrower than dtype.
    """

    height: int
    width: int
    channels: int
    boxes: int
    sampling_ratio: int
    roi_sampling: str
    dtype: int
    roi_groups: int = 1
    offset: float = 0.5
    zero_outside: bool = False
    narrow: bool = False


@dataclass(frozen=True)
class Grid:
    """Boxes and the table that they are pooled from.

    rows: the table [rows, C]; base int32 [R,1]: first row of each box's map and image; stride int32 [R,1]: rows per line
    of that map; ry, rx: samples per bin along each axis, float32 [R,1] or a scalar.
    """

    rows: Value
    base: Value
    stride: Value
    y: Axis
    x: Axis
    ry: Value
    rx: Value
    pooling: Pooling


def axis_weights(
    b: Builder, axis: Axis, samples: Value, step: Value | np.float32, bins: int, p: Pooling
) -> tuple[Value, Value, Value, Value]:
    """For one sample per bin: lower and upper cell (float32) and their weights, each [R, bins]."""
    start, size, cells = b.here(axis.start), b.here(axis.bin), b.here(axis.cells)
    count = b.op("Max", samples, 1.0)
    at = start + size * np.arange(bins, dtype=np.float32)[None, :]
    at = at + size * (step + np.float32(p.offset) if isinstance(step, Value)
                      else np.float32(step + p.offset)) / count  # fmt: skip
    share = where(b.op("Less", step, samples), 1.0 / count, 0.0)
    if p.zero_outside:
        on_map = (at >= -1.0) & (at <= cells)
        share = where(on_map, share, 0.0)
    at = at.max(0.0).min(cells - 1.0)
    lower = at.floor()
    upper = (lower + 1.0).min(cells - 1.0)
    part = at - lower
    return lower, upper, (1.0 - part) * share, part * share


def read_sample(b: Builder, grid: Grid, line: tuple[Value, ...], column: tuple[Value, ...]) -> Value:
    """One bilinear sample of every bin, [R, height, width, C]."""
    base, stride = b.here(grid.base), b.here(grid.stride)
    total: Value | None = None
    for cell_y, weight_y in ((line[0], line[2]), (line[1], line[3])):
        first = (base + cell_y.cast(TensorProto.INT32) * stride).unsqueeze(2)
        for cell_x, weight_x in ((column[0], column[2]), (column[1], column[3])):
            row = first + cell_x.cast(TensorProto.INT32).unsqueeze(1)
            weight = (weight_y.unsqueeze(2) * weight_x.unsqueeze(1)).unsqueeze(3)
            if grid.pooling.dtype != TensorProto.FLOAT:
                weight = weight.cast(grid.pooling.dtype)
            cells = b.here(grid.rows).take(row)
            read = (cells.cast(grid.pooling.dtype) if grid.pooling.narrow else cells) * weight
            total = read if total is None else total + read
    assert total is not None
    return total
