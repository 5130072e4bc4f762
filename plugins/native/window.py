"""RoIAlign as one weighted window: every cell that a box touches is read once.

A bin's mean of r bilinear samples along an axis gives each cell a weight in closed form. With samples at a + i * d, of which
m(y) lie at or below y, those up to a cell below y and those up to a cell above it are two arithmetic series:

    weight(y) = 1/r * [ sum over m(y-1) <= i < m(y)   of 1 - (y - a - i * d)
                      + sum over m(y)   <= i < m(y+1) of 1 + (y - a - i * d) ]

Weights factor into one for y and one for x, so that a box is two products of its window:

    out[p, q] = sum over y of Wy[q, y] * sum over x of Wx[p, x] * cell[y, x]

Windows are taken in tiles, accumulated in a Loop that is as long as the largest window needs. Cells off the map read its edge,
which is what clamping a sample to the map comes to. Boxes differ much in size, so they are sorted by their tiles and run in
groups (`roi_groups`), a Loop each: TensorRT's importer warns about the shape of a scan output where a Loop has a condition,
and refuses one without.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxgraft.ir.value import Value, concat
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.bilinear import Axis, Grid, Pooling
from onnxgraft.plugins.native.topk import top_k

TILE = (8, 32)
"""Cells down and across that one trip takes: 256 were the best on a GPU."""

_ENDLESS = 1 << 20  # trip limit; the Loop's condition ends it
_SHORTEST = np.float32(1e-12)  # a step of samples that can be divided by


def windowed(b: Builder, grid: Grid) -> Value:
    """[R, width, height, C]."""
    p = grid.pooling
    groups = max(n for n in range(1, p.roi_groups + 1) if p.boxes % n == 0)
    size = p.boxes // groups
    y, x = _Span.of(b, grid.y, grid.ry, p.height, TILE[0], p), _Span.of(b, grid.x, grid.rx, p.width, TILE[1], p)
    _, order = top_k((y.tiles * x.tiles).reshape(1, p.boxes), 1, p.boxes)
    order = order.reshape(p.boxes)
    reals = concat(*y.columns(), *x.columns(), axis=1).take(order).reshape(groups, size, -1)
    stride = b.op("Expand", grid.stride, np.array([p.boxes, 1]))
    whole = concat(grid.base, stride, axis=1).take(order).reshape(groups, size, 2)
    parts = []
    for number in range(groups):
        mine, ints = reals.take(np.array(number)), whole.take(np.array(number))
        columns = [mine.take([i], axis=1) for i in range(2 * _Span.WIDTH)]
        spans = _Span(*columns[: _Span.WIDTH]), _Span(*columns[_Span.WIDTH :])
        parts.append(_looped(b, grid.rows, ints.take([0], axis=1), ints.take([1], axis=1), spans, replace(p, boxes=size)))
    done = parts[0] if groups == 1 else concat(*parts, axis=0)
    here = np.arange(p.boxes, dtype=np.int32)
    return done.take(b.op("ScatterElements", np.zeros_like(here), order, here, axis=0))


class _Span:
    """One axis of all boxes, float32 [R, 1] each: where the first bin begins and its size, samples of a bin, cells of the map,
    the window's first cell and how many tiles it takes."""

    WIDTH = 6

    def __init__(self, start: Value, bin_: Value, samples: Value, cells: Value, first: Value, tiles: Value) -> None:
        self.start, self.bin, self.samples = start, bin_, samples
        self.cells, self.first, self.tiles = cells, first, tiles

    @staticmethod
    def of(b: Builder, axis: Axis, samples: Value, bins: int, tile: int, p: Pooling) -> _Span:
        samples = b.op("Max", b.op("Expand", samples, np.array([p.boxes, 1])), 0.0)
        step = axis.bin / samples.max(1.0)
        one = axis.start + step * np.float32(p.offset)
        two = axis.start + axis.bin * np.float32(bins) - step * np.float32(1 - p.offset)
        first = one.min(two).floor().max(-1.0).min(axis.cells)
        last = (one.max(two).floor() + 1.0).min(axis.cells)
        tiles = ((last - first + 1.0) / float(tile)).ceil().max(1.0)
        return _Span(axis.start, axis.bin, samples, axis.cells, first, tiles)

    def columns(self) -> list[Value]:
        return [self.start, self.bin, self.samples, self.cells, self.first, self.tiles]

    def here(self, b: Builder) -> _Span:
        """In a Loop's body."""
        return _Span(*(b.here(column) for column in self.columns()))


def _looped(b: Builder, rows: Value, base: Value, stride: Value, spans: tuple[_Span, _Span], p: Pooling) -> Value:
    """Tile t of a box is line floor(t / tiles across), column t mod tiles across: boxes finish independently."""
    kind = np.float32 if p.dtype == TensorProto.FLOAT else np.float16
    shape = (p.boxes, p.width, p.height, p.channels)
    most = (spans[0].tiles * spans[1].tiles).amax(0, 1)
    body = b.body()
    step, total = body.input(body.fresh("step_in")), body.input(body.fresh("total_in"))
    step_out, total_out, more_out = (body.fresh(n) for n in ("step_out", "total_out", "more_out"))
    y, x = (span.here(body) for span in spans)
    line = ((step + 0.5) / x.tiles).floor()
    column = step - line * x.tiles
    part = _tile(body, body.here(rows), (body.here(base), body.here(stride)), (y, x), (line, column), p)
    body.output(total + part, total_out)
    after = step + 1.0
    body.output(after, step_out)
    body.output(after < body.here(most), more_out)
    graph = body.graph(
        "tile",
        [tensor_info(body.fresh("trip"), (), TensorProto.INT64), tensor_info(body.fresh("more_in"), (), TensorProto.BOOL),
         tensor_info(step.name, ()), tensor_info(total.name, shape, p.dtype)],
        [tensor_info(more_out, (), TensorProto.BOOL), tensor_info(step_out, ()), tensor_info(total_out, shape, p.dtype)],
    )  # fmt: skip
    zero = b.op("Expand", kind(0), np.array(shape, np.int64))
    _, done = b.ops(
        "Loop", np.array(_ENDLESS, np.int64), np.array(True), np.float32(0), zero, outputs=2, body=graph
    )  # fmt: skip
    return done


def _tile(
    b: Builder, rows: Value, places: tuple[Value, Value], spans: tuple[_Span, _Span], at: tuple[Value, Value], p: Pooling
) -> Value:
    """What one tile adds, [R, width, height, C]; places: base and stride of each box, at: which line and column of tiles."""
    base, stride = places
    cells, weights = [], []
    for span, number, tile, bins in zip(spans, at, TILE, (p.height, p.width), strict=True):
        around = span.first + number * float(tile) + np.arange(-1, tile + 1, dtype=np.float32)[None, :]
        weight = _weights(span, around, bins, tile, p)
        weights.append(weight if p.dtype == TensorProto.FLOAT else weight.cast(p.dtype))
        inner = around[:, 1 : tile + 1]
        cells.append(inner.max(0.0).min(span.cells - 1.0).cast(TensorProto.INT32))
    row = (base + cells[0] * stride).unsqueeze(1) + cells[1].unsqueeze(2)  # [R, across, down]
    window = rows.take(row).reshape(p.boxes, TILE[1], TILE[0] * p.channels)
    if p.narrow:
        window = window.cast(p.dtype)
    across = weights[1].op("MatMul", window).reshape(p.boxes, p.width, TILE[0], p.channels)
    return weights[0].unsqueeze(1).op("MatMul", across)


def _weights(span: _Span, around: Value, bins: int, tile: int, p: Pooling) -> Value:
    """[R, bins, tile] of the cells `around` [R, tile + 2], which begins one before the tile and ends one behind it."""
    count = span.samples.max(1.0)
    signed = span.bin / count
    begin = span.start + span.bin * np.arange(bins, dtype=np.float32)[None, :] + signed * np.float32(p.offset)
    begin = begin.min(begin + signed * (count - 1.0)).unsqueeze(2)  # a box may lie the wrong way round
    step = signed.abs().max(_SHORTEST).unsqueeze(2)
    low: Value | float = 0.0
    high = span.samples.unsqueeze(2)
    if p.zero_outside:
        low = ((begin + 1.0) / step * -1.0).ceil().max(0.0)
        high = (((span.cells.unsqueeze(2) - begin) / step).floor() + 1.0).min(high)
    away = around.unsqueeze(1) - begin
    below = ((away / step).floor() + 1.0).max(low).min(high)
    before, until, after = (below[:, :, i : tile + i] for i in (0, 1, 2))
    here, half = away[:, :, 1 : tile + 1], step * 0.5
    under = (until - before) * (half * (before + until - 1.0) - here + 1.0)
    over = (after - until) * (here - half * (until + after - 1.0) + 1.0)
    return (under + over) / count.unsqueeze(2)
