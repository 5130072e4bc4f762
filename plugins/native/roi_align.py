"""RoIAlign as gathers, in ops that TensorRT for RTX builds.

All maps become one table of rows [sum(B*H*W), C] (channels last). A sample point reads four rows
with bilinear weights. The weights factor into one for y and one for x, and the mean over a bin's
samples is a factor 1/r in each, so that masked samples simply weigh nothing:

    out[r,p,q] = sum over samples (i,j) of sum over corners wy(r,p,i) * wx(r,q,j) * row

Sample positions are taken one after the other and accumulated, which keeps the peak at a few
tensors of the output's size. How many positions there are is the `sampling` option:

fixed2   2 x 2 for every box: not detectron2's adaptive sampling, cheapest.
masked4  r x r with r = min(adaptive r, 4): exact where r <= 4; a Loop of at most 16 trips.
exact    the adaptive r of each box; the Loop's trip count is the largest ry*rx of any box.

Boxes differ much in samples (1 to 50), so adaptive samplings sort them by it and run the Loop for
one group of boxes after the other (`roi_groups`): fewer trips for most boxes, smaller tensors.

A sampling_ratio above 0 needs none of them: r x r for every box, unrolled up to 2 x 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxgraft.ir.value import Value, concat
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.bilinear import Axis, Grid, Pooling, axis_weights, read_sample
from onnxgraft.plugins.native.topk import top_k
from onnxgraft.plugins.schema import Attribute, choice

UNROLLED = 2
"""Largest samples per axis that are unrolled; more run in a Loop, which builds 60 times faster."""
MASKED = 4
"""Samples per axis of masked4."""

_ENDLESS = 1 << 20  # trip limit; the Loop's condition ends it

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
    "groups of boxes in which adaptive sampling runs, at most; the number used divides the boxes",
    4, allowed="at least 1", check=lambda v: v >= 1,
)  # fmt: skip
OPTIONS: tuple[Attribute, ...] = (SAMPLING, DTYPE, GROUPS)


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
        total = _unrolled(b, grid, fixed)
    elif fixed:
        total = _looped(b, grid, b.constant(np.float32(fixed * fixed)))
    else:
        total = _grouped(b, grid)
    return total.transpose(0, 3, 1, 2)


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


def _grouped(b: Builder, grid: Grid) -> Value:
    """The boxes in groups of like sample counts, each group with a Loop of its own length.

    One Loop per group, not a Loop over groups: TensorRT's importer warns about the shape of a
    scan output where the Loop has a condition, and refuses one without.
    """
    p = grid.pooling
    groups = max(n for n in range(1, p.roi_groups + 1) if p.boxes % n == 0)
    if groups == 1:
        return _looped(b, grid, _most(b, grid.ry, grid.rx))
    size = p.boxes // groups
    count = b.op("Max", grid.ry, 0.0) * b.op("Max", grid.rx, 0.0)
    _, order = top_k(count.reshape(1, p.boxes), 1, p.boxes)
    order = order.reshape(p.boxes)
    y, x = grid.y, grid.x
    reals = concat(
        y.start, y.bin, y.cells, grid.ry, x.start, x.bin, x.cells, grid.rx, axis=1
    ).take(order).reshape(groups, size, 8)  # fmt: skip
    stride = b.op("Expand", grid.stride, np.array([p.boxes, 1]))
    whole = concat(grid.base, stride, axis=1).take(order).reshape(groups, size, 2)

    parts = []
    for number in range(groups):
        mine, ints = reals.take(np.array(number)), whole.take(np.array(number))
        columns = [mine.take([i], axis=1) for i in range(8)]
        base, line = (ints.take([i], axis=1) for i in (0, 1))
        part = Grid(
            grid.rows, base, line, Axis(*columns[:4]), Axis(*columns[4:]),
            columns[3], columns[7], replace(p, boxes=size),
        )  # fmt: skip
        parts.append(_looped(b, part, _most(b, part.ry, part.rx)))
    done = concat(*parts, axis=0)
    here = np.arange(p.boxes, dtype=np.int32)
    back = b.op("ScatterElements", np.zeros_like(here), order, here, axis=0)
    return done.take(back)


def _looped(b: Builder, grid: Grid, positions: Value) -> Value:
    """Sample t of a box is line floor(t / rx), column t mod rx: boxes finish independently."""
    p = grid.pooling
    kind = np.float32 if p.dtype == TensorProto.FLOAT else np.float16
    shape = (p.boxes, p.height, p.width, p.channels)
    body = b.body()
    step, total = body.input(body.fresh("step_in")), body.input(body.fresh("total_in"))
    step_out, total_out, more_out = (body.fresh(n) for n in ("step_out", "total_out", "more_out"))
    rx = body.op("Max", grid.rx, 1.0)
    line_no = body.op("Floor", (step + 0.5) / rx)
    column_no = step - line_no * rx
    line = axis_weights(body, grid.y, grid.ry, line_no, p.height, p)
    column = axis_weights(body, grid.x, grid.rx, column_no, p.width, p)
    body.output(total + read_sample(body, grid, line, column), total_out)
    after = step + 1.0
    body.output(after, step_out)
    body.output(after < positions, more_out)
    graph = body.graph(
        "sample",
        [
            tensor_info(body.fresh("trip"), (), TensorProto.INT64),
            tensor_info(body.fresh("more_in"), (), TensorProto.BOOL),
            tensor_info(step.name, ()),
            tensor_info(total.name, shape, p.dtype),
        ],
        [
            tensor_info(more_out, (), TensorProto.BOOL),
            tensor_info(step_out, ()),
            tensor_info(total_out, shape, p.dtype),
        ],
    )
    zero = b.op("Expand", kind(0), np.array(shape, np.int64))
    _, done = b.ops(
        "Loop", np.array(_ENDLESS, np.int64), np.array(True), np.float32(0), zero,
        outputs=2, body=graph,
    )  # fmt: skip
    return done


def _most(b: Builder, ry: Value, rx: Value) -> Value:
    """Samples per bin of the box that has most, a scalar."""
    per_box = ry.max(0.0) * rx.max(0.0)
    return per_box.amax(0, 1)


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
