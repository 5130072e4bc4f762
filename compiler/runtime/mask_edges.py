"""Where pasted masks begin and end along each line of an image: found on the edges alone, not by looking at every pixel.

Between two cells of a mask a pasted line rises or falls evenly. So the pixels at which it passes the threshold are computed,
and only those that lie so near to it that rounding counts are sampled as torch's kernel samples them. Where that cannot be
said (boxes turned inside out, cells that are no numbers, a threshold of zero) every pixel is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime.mask_grid import Axis, axes, sample, widened

UNSURE = 1e-5  # the computed passage is off by some 1e-7: what lies this near the threshold is sampled
_LINES = 1 << 14  # at a time: some 10 MB
_SAMPLED = 1 << 18  # points at a time


@dataclass(frozen=True, eq=False)
class Edges:
    """One mask in the part of an image that it can touch: `height` x `width` at (top, left).

    turns: int64 [2 k], places where the mask begins and ends in turn, in rising order: counted along the lines, one after
    the other.
    """

    top: int
    left: int
    height: int
    width: int
    turns: NDArray[np.int64]


def edges(
    masks: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int], threshold: float, columns: bool
) -> Iterator[Edges]:
    """The edges of each mask.

    Args:
        masks: probabilities [n, M, M] over the boxes.
        boxes: float32 [n, 4], x1, y1, x2, y2 in pixels of the image.
        size: height and width of the image.
        threshold: the least probability of a pixel that is set.
        columns: whether lines are columns of the whole image, as COCO counts them; else they are rows of the part that the
            mask can touch.
    """
    wide, limit = widened(masks), np.float32(threshold)
    odd = ~((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(masks).all(axis=(1, 2)) & (limit > UNSURE))
    rows, cols = axes(boxes, size, masks.shape[-1])
    lines = cols.count if columns else rows.count
    for part in _parts(lines):
        down, across = _of(rows, part), _of(cols, part)
        found = _Lines(wide[part], odd[part], down, across, limit, columns, size[0])
        with np.errstate(invalid="ignore"):
            turns_of = found.turns()
        where = zip(down.first, across.first, down.count, across.count, turns_of, strict=True)
        for top, left, height, width, turns in where:
            yield Edges(int(top), int(left), int(height), int(width), turns)


def _parts(lines: NDArray[np.int64]) -> Iterator[slice]:
    """Masks that are looked at together."""
    start = 0
    while start < len(lines):
        held = np.cumsum(lines[start:])
        stop = start + max(1, int(np.searchsorted(held, _LINES, "right")))
        yield slice(start, stop)
        start = stop


def _of(axis: Axis, part: slice) -> Axis:
    """The pixels of some boxes."""
    first, last = int(axis.start[part.start]), int(axis.start[part.start] + axis.count[part].sum())
    return Axis(axis.first[part], axis.count[part], axis.cell[first:last], axis.fraction[first:last])


class _Lines:
    """The lines of several masks.

    wide: the widened masks [n, S, S]. odd: of which every pixel is sampled, bool [n]. rows, columns: where their pixels lie.
    along: whether lines are columns. tall: of the image.
    """

    def __init__(
        self, wide: NDArray[np.float32], odd: NDArray[np.bool_], rows: Axis, columns: Axis, threshold: np.float32,
        along: bool, tall: int,
    ) -> None:  # fmt: skip
        self.wide, self.odd, self.threshold, self.along = wide, odd, threshold, along
        self.rows, self.columns = rows, columns
        self.lines, self.pixels = (columns, rows) if along else (rows, columns)
        # Places are counted from `base`, one after the last of a mask included, which ends what is open there.
        number = np.arange(len(self.lines.owner)) - self.lines.start[self.lines.owner]
        if along:
            self.base = (number + columns.first[columns.owner]) * tall + rows.first[columns.owner]
        else:
            self.base = number * columns.count[rows.owner]

    def turns(self) -> list[NDArray[np.int64]]:
        """Of each mask."""
        nodes = self._nodes()
        line, row, state = self._changes(nodes)
        span = int(self.base.max(initial=0)) + int(self.pixels.count.max(initial=0)) + 1
        place = self.lines.owner[line] * span + self.base[line] + row
        order = np.argsort(place, kind="stable")
        place, state = place[order], state[order]
        last = np.append(place[1:] != place[:-1], True)[: len(place)]  # of what is said of a place, the last counts
        place, state = place[last], state[last]
        turn = place[state != np.concatenate([[False], state[:-1]])[: len(state)]]
        ends = np.searchsorted(turn, np.arange(1, len(self.lines.count)) * span)
        return [part - i * span for i, part in enumerate(np.split(turn, ends))]

    def _nodes(self) -> NDArray[np.float32]:
        """The masks' cells along each line, [lines, S], off by some 1e-7."""
        wide = self.wide.transpose(0, 2, 1) if self.along else self.wide
        flat = np.ascontiguousarray(wide).reshape(-1, wide.shape[-1])
        at = self.lines.owner * wide.shape[-1] + self.lines.cell
        fraction = self.lines.fraction[:, None]
        nodes = flat.take(at, axis=0)
        nodes += (flat.take(at + 1, axis=0) - nodes) * fraction
        nodes[self.odd[self.lines.owner]] = 0
        return nodes

    def _changes(
        self, nodes: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Lines, pixels of theirs, and whether the mask is set from there on; what is said last of a pixel holds."""
        every, owner = np.arange(len(nodes)), self.lines.owner
        length = self.pixels.count[owner]
        begun = nodes[every, self.pixels.cell[self.pixels.start[owner]]] >= self.threshold
        line, low, high, behind = self._passages(nodes)
        inside = high < length[line]
        whole = np.flatnonzero(self.odd[owner])
        near, pixel = _spread(
            np.append(line, whole), np.append(low, np.zeros_like(whole)), np.append(high, length[whole])
        )
        closed = np.zeros(len(every), bool)
        return (
            np.concatenate([every, every, line[inside], near]),
            np.concatenate([length, np.zeros_like(length), high[inside], pixel]),
            np.concatenate([closed, begun, behind[inside], self._sampled(near, pixel)]),
        )

    def _passages(self, nodes: NDArray[np.float32]) -> tuple[NDArray[np.int64], ...]:
        """Lines that pass the threshold between two cells: which, the pixels [low, high) that lie too near to it to say by
        computing, and whether the mask is set behind them."""
        above, below = nodes >= self.threshold - np.float32(UNSURE), nodes < self.threshold + np.float32(UNSURE)
        passes = (above[:, 1:] | above[:, :-1]) & (below[:, 1:] | below[:, :-1])
        line, cell = np.divmod(np.flatnonzero(passes), passes.shape[1])
        start = nodes[line, cell].astype(np.float64) - float(self.threshold)
        stop = nodes[line, cell + 1].astype(np.float64) - float(self.threshold)
        flat = np.maximum(np.abs(start), np.abs(stop)) <= UNSURE
        slope = np.where(flat, 1.0, stop - start)
        middle, reach = np.where(flat, 0.5, -start / slope), np.where(flat, 1.0, UNSURE / np.abs(slope))
        size, owner = self.wide.shape[-1] + 1, self.lines.owner[line]
        at = self.pixels.owner * size + self.pixels.cell + self.pixels.fraction.astype(np.float64)
        at = np.where(self.odd[self.pixels.owner], self.pixels.owner * size, at)
        cells = np.arange(len(self.pixels.count) * size)
        bounds = np.searchsorted(at, cells)  # the first pixel behind each cell
        key = owner * size + cell
        first, last = bounds[key], bounds[key + 1]
        low = np.clip(np.searchsorted(at, key + (middle - reach)), first, last)
        high = np.clip(np.searchsorted(at, key + (middle + reach), "right"), first, last)
        offset = self.pixels.start[owner]
        return line, low - offset, high - offset, stop >= 0

    def _sampled(self, line: NDArray[np.int64], pixel: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether pixels are set, as torch's kernel says."""
        found = np.empty(len(line), bool)
        for start in range(0, len(line), _SAMPLED):
            part = slice(start, start + _SAMPLED)
            owner = self.lines.owner[line[part]]
            places = line[part], self.pixels.start[owner] + pixel[part]
            down, across = places[::-1] if self.along else places
            value = sample(self.wide, owner, self.rows.cell[down], self.rows.fraction[down],
                           self.columns.cell[across], self.columns.fraction[across])  # fmt: skip
            found[part] = value >= self.threshold
        return found


def _spread(
    line: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every pixel of [low, high), and its line."""
    count = high - low
    pixel = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - low, count)
    return np.repeat(line, count), pixel
