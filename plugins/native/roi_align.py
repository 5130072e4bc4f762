"""RoIAlign as gathers, in ops that TensorRT for RTX builds.

All maps become one table of rows [sum(B*H*W), C] (channels last). How many samples a bin takes is the `sampling` option:

fixed2   2 x 2 for every box: not detectron2's adaptive sampling.
masked4  r x r with r = min(adaptive r, 4): exact where r <= 4.
exact    the adaptive r of each box.

Up to 2 x 2 samples that are the same for every box are read one by one, four rows each with bilinear weights. More of them, and
numbers that differ from box to box, are one weighted window a box (`native.window`), whose cost does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxgraft.ir.value import Value, concat
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.bilinear import Axis, Grid, Pooling, axis_weights, read_sample
from onnxgraft.plugins.native.window import windowed
from onnxgraft.plugins.schema import Attribute, choice

UNROLLED = 2
"""Largest samples per axis that are read one by one."""
MASKED = 4
"""Samples per axis of masked4."""

SAMPLING = choice(
    "roi_sampling", "exact", ("exact", "masked4", "fixed2"),
    "how sampling_ratio 0 is carried out: exact for every box; exact up to 4 samples per bin and "
    "axis; or 2 x 2 for every box",
)  # fmt: skip
DTYPE = choice(
    "dtype", "float32", ("float32", "float16"),
    "type of the maps and the output; coordinates and weights are computed in float32",
)  # fmt: skip
GROUPS = Attribute(
    "roi_groups", "int",
    "groups of boxes of like windows, at most; the number used divides the boxes",
    4, allowed="at least 1", check=lambda v: v >= 1,
)  # fmt: skip
MAPS = choice(
    "maps", "dtype", ("dtype", "float16", "bfloat16"),
    "type of the maps where it is narrower than dtype: only the cells that are read are cast",
)  # fmt: skip
OPTIONS: tuple[Attribute, ...] = (SAMPLING, DTYPE, GROUPS, MAPS)
_NARROW = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def map_type(options: Mapping[str, Any], dtype: int) -> int:
    """The type of the maps, a number of onnx.TensorProto, of a form that computes in `dtype`."""
    return _NARROW.get(options["maps"], dtype)


def map_rows(b: Builder, maps: Sequence[Value], shapes: Sequence[Sequence[int]]) -> Value:
    """Maps [B,C,H,W] as one table of rows [sum(B*H*W), C], map after map."""
    rows = [
        value.transpose(0, 2, 3, 1).reshape(n * h * w, c)
        for value, (n, c, h, w) in zip(maps, shapes, strict=True)
    ]
    return rows[0] if len(rows) == 1 else concat(*rows, axis=0)


def pool(
    b: Builder, rows: Value, base: Value, stride: Value, y: Axis, x: Axis, p: Pooling
) -> Value:
    """[R, C, height, width]. `base` int32 [R,1]: first row of each box's map and image;
    `stride` int32 [R,1]: rows per line of that map."""
    fixed = p.sampling_ratio or (2 if p.roi_sampling == "fixed2" else 0)
    if fixed:
        ry = rx = b.constant(np.float32(fixed))
    elif p.roi_sampling == "masked4":
        ry, rx = y.adaptive.min(float(MASKED)), x.adaptive.min(float(MASKED))
    else:
        ry, rx = y.adaptive, x.adaptive
    grid = Grid(rows, base, stride, y, x, ry, rx, p)
    if 0 < fixed <= UNROLLED:
        return _unrolled(b, grid, fixed).transpose(0, 3, 1, 2)
    return windowed(b, grid).transpose(0, 3, 2, 1)


def _unrolled(b: Builder, grid: Grid, count: int) -> Value:
    steps = [np.float32(i) for i in range(count)]
    p = grid.pooling
    lines = [axis_weights(b, grid.y, grid.ry, i, p.height, p) for i in steps]
    columns = [axis_weights(b, grid.x, grid.rx, i, p.width, p) for i in steps]
    total: Value | None = None
    for line in lines:
        for column in columns:
            sample = read_sample(b, grid, line, column)
            total = sample if total is None else total + sample
    assert total is not None
    return total


def output_graph(
    b: Builder,
    name: str,
    inputs: Sequence[onnx.ValueInfoProto],
    pooled: Value,
    output: str,
    shape: Sequence[int],
    dtype: int,
) -> onnx.GraphProto:
    """Close the graph with one output of the given shape."""
    b.output(pooled.reshape(*shape), output)
    return b.graph(name, inputs, [tensor_info(output, shape, dtype)])
