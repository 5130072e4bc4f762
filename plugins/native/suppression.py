"""Greedy suppression of sorted candidates in ops that TensorRT for RTX builds: no NMS, NonZero or plugin.

What survives is the fixed point of

    keep = entering & not(any earlier kept candidate of the class overlaps)

Each iteration is one product of a matrix of overlaps with `keep`; the first i candidates are right after i iterations, so as
many as there are candidates are enough for any input, and a few are in practice.

The matrix is made for one pair of blocks at a time: a block of candidates loses what earlier blocks suppress, one after the
other, then settles within itself. So memory goes with a block's square, half of all pairs are never looked at, and the loop
ends with the last block that has candidates, or as soon as every image has the rows that it gives out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from onnxgraft.ir.value import Value, concat, where
from onnxgraft.plugins.builder import Builder, tensor_info

ALONE = 1024
"""Up to this many candidates are one block."""
BLOCK = 512
"""The most of a block otherwise."""


@dataclass(frozen=True)
class Rule:
    """iou_threshold: suppress at IoU >= this. rows: survivors that are wanted of an image; None for all. product: the type,
    of onnx.TensorProto, in which matrices are multiplied (exact in any: sums of ones, compared with one half)."""

    iou_threshold: float
    rows: int | None
    product: int

    def of(self, value: float) -> np.generic:
        """A scalar of the product's type."""
        kind: type[np.generic] = helper.tensor_dtype_to_np_dtype(self.product).type
        return kind(value)


@dataclass(frozen=True)
class _Boxes:
    """Boxes [..., S]: corners and areas, and classes where they matter."""

    sides: tuple[tuple[Value, Value], ...]  # (low, high) of x and of y
    area: Value
    label: Value | None

    @staticmethod
    def of(corners: Value, label: Value | None, axis: int) -> _Boxes:
        low, high = corners.take([0, 1], axis=axis), corners.take([2, 3], axis=axis)
        low, high = low.min(high), low.max(high)
        side = high - low
        area = side.take(0, axis=axis) * side.take(1, axis=axis)
        return _Boxes(tuple((low.take(i, axis=axis), high.take(i, axis=axis)) for i in (0, 1)), area, label)

    def parts(self) -> list[Value]:
        return [self.sides[0][0], self.sides[0][1], self.sides[1][0], self.sides[1][1], self.area,
                *([] if self.label is None else [self.label])]  # fmt: skip

    def part(self, places: slice) -> _Boxes:
        """Those at some places."""
        return _Boxes.from_parts(*(value[:, places] for value in self.parts()))

    @staticmethod
    def from_parts(x1: Value, x2: Value, y1: Value, y2: Value, area: Value, label: Value | None = None) -> _Boxes:
        return _Boxes(((x1, x2), (y1, y2)), area, label)


def suppress(b: Builder, corners: Value, entering: Value, label: Value | None, shape: tuple[int, int], rule: Rule) -> Value:
    """keep, bool [B, K].

    Args:
        b: where nodes are added.
        corners: float32 [B, K, 4], best first; corners may be in the wrong order.
        entering: bool [B, K], which of them count.
        label: int32 [B, K], boxes of different labels do not suppress each other; None where all are alike.
        shape: B and K.
        rule: how.
    """
    batch, k = shape
    boxes = _Boxes.of(corners, label, axis=2)
    if k <= ALONE:
        order = b.op("Max", np.arange(k, dtype=np.int32)[None, :], entering.cast(TensorProto.INT32) - np.int32(1))
        start = entering.cast(rule.product).unsqueeze(2)
        return _settled(b, _by_earlier(boxes, order, k, rule), start, None, (batch, k), rule).squeeze(2) > rule.of(0.5)
    return _by_blocks(b, boxes, entering, shape, rule)


def _by_earlier(boxes: _Boxes, order: Value, k: int, rule: Rule) -> Value:
    """[B, K, K] in the product's type: row i has ones at the earlier candidates that suppress i; `order` int32 [B, K].

    Many rows are taken in two halves, of which the first has nothing earlier in the second: what is computed on the way
    takes half the memory, and a quarter of the pairs is not looked at.
    """

    def part(rows: slice, columns: slice) -> Value:
        earlier = order[:, columns].unsqueeze(1) < order[:, rows].unsqueeze(2)
        return (_clash(boxes.part(rows), boxes.part(columns), rule) & earlier).cast(rule.product)

    if k <= BLOCK:
        return part(slice(0, k), slice(0, k))
    half = k // 2
    first = part(slice(0, half), slice(0, half)).op("Pad", np.array([0, 0, 0, 0, 0, k - half], np.int64))
    return concat(first, part(slice(half, k), slice(0, k)), axis=1)


def _clash(rows: _Boxes, columns: _Boxes, rule: Rule) -> Value:
    """bool [B, S, S]: whether IoU reaches the threshold. Where boxes do not meet, one side is negative and so is their share;
    0 / 0 is no number and does not reach it.

    ONNX Runtime computes first what was added last, so that sums of areas, added before the sides, wait for no side.
    """
    both = rows.area.unsqueeze(2) + columns.area.unsqueeze(1)
    sides = []
    for (low, high), (left, right) in zip(rows.sides, columns.sides, strict=True):
        sides.append(high.unsqueeze(2).min(right.unsqueeze(1)) - low.unsqueeze(2).max(left.unsqueeze(1)))
    inter = sides[0].max(0.0) * sides[1]
    union = both - inter
    clash = inter / union >= np.float32(rule.iou_threshold)
    if rows.label is None or columns.label is None:
        return clash
    return clash & rows.label.unsqueeze(2).equal(columns.label.unsqueeze(1))


def _settled(
    b: Builder, matrix: Value, start: Value, given: tuple[Value, Value] | None, shape: tuple[int, int], rule: Rule
) -> Value:
    """keep [B, S, 1] of `start` [B, S, 1], 0 or 1 in the product's type.

    Args:
        matrix: [B, S, S]; row i has ones at what suppresses i.
        given: whether columns are the rows themselves (1, else 0), and where they are not, which of them were kept [B, S, 1].
            None where they are.
        shape: B and S.
    """
    batch, size = shape
    body = b.body()
    names = {name: body.fresh(name) for name in ("keep_in", "keep_out", "again_in", "again_out", "trip")}
    keep = body.input(names["keep_in"])
    by = keep if given is None else keep * body.here(given[0]) + body.here(given[1])
    hits = body.op("MatMul", matrix, by)
    free = (hits < rule.of(0.5)).cast(rule.product) * body.here(start)
    moved = (free - keep).abs().cast(TensorProto.FLOAT)
    again = moved.reshape(1, batch * size).amax(0, 1)
    if given is not None:
        again = again * body.here(given[0]).cast(TensorProto.FLOAT)
    body.output(again > 0.5, names["again_out"])
    body.output(free, names["keep_out"])
    held = (batch, size, 1)
    graph = body.graph(
        "suppress",
        [tensor_info(names["trip"], (), TensorProto.INT64), tensor_info(names["again_in"], (), TensorProto.BOOL),
         tensor_info(names["keep_in"], held, rule.product)],
        [tensor_info(names["again_out"], (), TensorProto.BOOL), tensor_info(names["keep_out"], held, rule.product)],
    )  # fmt: skip
    return b.op("Loop", np.array(size, np.int64), np.array(True), start, body=graph)


def _by_blocks(b: Builder, boxes: _Boxes, entering: Value, shape: tuple[int, int], rule: Rule) -> Value:
    """One Loop over pairs of blocks: block `row` loses what is kept of block `column`, up to its own.

    Long because a Loop's body is one graph.
    """
    batch, k = shape
    blocks = -(-k // BLOCK)
    size = -(-k // blocks)
    parts = [_split(b, part, batch, blocks, size, k) for part in boxes.parts()]
    enters = _split(b, entering.cast(rule.product), batch, blocks, size, k)
    nothing = np.zeros((batch, 1), np.float32)
    left = concat(enters.cast(TensorProto.FLOAT).amax(2), nothing, axis=1)  # [B, blocks + 1]: which blocks have candidates

    body = b.body()
    names = ("trip", "more", "row", "column", "alive", "kept")
    into, out = ({name: body.fresh(f"{name}_{way}") for name in names} for way in ("in", "out"))
    row, column, alive, kept = (body.input(into[name]) for name in names[2:])
    rows = _Boxes.from_parts(*(body.here(part).take(row, axis=1) for part in parts))
    columns = _Boxes.from_parts(*(body.here(part).take(column, axis=1) for part in parts))
    inside = np.arange(size, dtype=np.int64)
    after = (row * size + inside[:, None]) > (column * size + inside[None, :])
    matrix = (_clash(rows, columns, rule) & after.unsqueeze(0)).cast(rule.product)
    own = row.equal(column)
    itself = own.cast(rule.product)
    others = kept.take(column, axis=1).unsqueeze(2) * (itself * rule.of(-1.0) + rule.of(1.0))
    settled = _settled(body, matrix, alive.unsqueeze(2), (itself, others), (batch, size), rule).squeeze(2)

    here = row.equal(np.arange(blocks, dtype=np.int64)).reshape(1, blocks, 1)
    kept = where(here, settled.unsqueeze(1), kept)
    following = row + own.cast(TensorProto.INT64)
    wanted = body.here(left).take(following, axis=1)
    if rule.rows is not None:
        found = kept.cast(TensorProto.FLOAT).sum(1, 2)
        wanted = wanted * (found < float(rule.rows)).cast(TensorProto.FLOAT)
    more = ~own | (wanted.amax(0) > 0.5)
    fresh = body.here(enters).take(following.min(blocks - 1), axis=1)
    values = (more, following, where(own, 0, column + 1), where(own, fresh, settled), kept)
    for value, name in zip(values, names[1:], strict=True):
        body.output(value, out[name])
    kinds = [((), TensorProto.BOOL), ((), TensorProto.INT64), ((), TensorProto.INT64), ((batch, size), rule.product),
             ((batch, blocks, size), rule.product)]  # fmt: skip
    graph = body.graph(
        "blocks",
        [tensor_info(into["trip"], (), TensorProto.INT64),
         *(tensor_info(into[name], dims, kind) for name, (dims, kind) in zip(names[1:], kinds, strict=True))],
        [tensor_info(out[name], dims, kind) for name, (dims, kind) in zip(names[1:], kinds, strict=True)],
    )  # fmt: skip
    zero, empty = np.array(0, np.int64), np.zeros((batch, blocks, size), helper.tensor_dtype_to_np_dtype(rule.product))
    first = enters.take(np.array(0), axis=1)
    pairs = np.array(blocks * (blocks + 1) // 2, np.int64)
    *_, done = b.ops("Loop", pairs, np.array(True), zero, zero, first, empty, outputs=4, body=graph)
    every = done.reshape(batch, blocks * size) > rule.of(0.5)
    return every if blocks * size == k else every.op("Slice", [0], [k], [1])


def _split(b: Builder, value: Value, batch: int, blocks: int, size: int, k: int) -> Value:
    """[B, K] as [B, blocks, size], zeros behind."""
    missing = blocks * size - k
    if missing:
        value = value.op("Pad", np.array([0, 0, 0, missing], np.int64))
    return value.reshape(batch, blocks, size)
