"""Where detectron2 samples a mask for each pixel of its box, and what torch's CPU kernel finds there, bit for bit.

The numbers are those of detectron2/layers/mask_ops.py on a CPU: torch's grid_sample with align_corners=False and zeros
outside, in the box grown by one pixel. Masks are widened by zeros, which stand for grid_sample's padding and for all beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_BEFORE, _BEHIND = 2, 3  # cells of zeros around a mask: one is the padding, the others stand for what lies beyond


@dataclass(frozen=True, eq=False)
class Axis:
    """Pixels of one axis of the image that several boxes reach, those of one box after those of the other.

    first     int64 [n], the first pixel of each box
    count     int64 [n], how many pixels it reaches; 0 where it has none in the image
    cell      int64 [pixels], the widened mask's cell before each pixel's centre
    fraction  float32 [pixels], how far the centre lies behind it, in cells
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]
    cell: NDArray[np.int64]
    fraction: NDArray[np.float32]

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """Where each box's pixels start, int64 [n]."""
        return np.cumsum(self.count) - self.count

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The box that each pixel belongs to, int64 [pixels]."""
        return np.repeat(np.arange(len(self.count)), self.count)


def widened(masks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Masks [n, M, M] among zeros, [n, M + 5, M + 5]."""
    around = (_BEFORE, _BEHIND)
    return np.pad(masks.astype(np.float32), ((0, 0), around, around))


def axes(boxes: NDArray[np.float32], size: tuple[int, int], cells: int) -> tuple[Axis, Axis]:
    """The rows and columns of an image of `size` (H, W) that boxes [n, 4] (x1, y1, x2, y2, pixels) reach.

    Boxes that are not finite reach nothing. cells: along each axis of the masks.
    """
    boxes = boxes.astype(np.float32)
    known = np.asarray(np.isfinite(boxes).all(axis=1))
    left, width = _span(boxes[:, 0], boxes[:, 2], known, size[1])
    top, height = _span(boxes[:, 1], boxes[:, 3], known, size[0])
    some = (width > 0) & (height > 0)
    rows = _axis(top, np.where(some, height, 0), boxes[:, 1], boxes[:, 3], cells)
    return rows, _axis(left, np.where(some, width, 0), boxes[:, 0], boxes[:, 2], cells)


def _span(
    low: NDArray[np.float32], high: NDArray[np.float32], known: NDArray[np.bool_], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel and number of pixels."""
    ends = np.where(known, (np.floor(low) - 1, np.ceil(high) + 1), np.float32(0))
    start, stop = np.clip(ends, 0, limit).astype(np.int64)
    return start, np.maximum(stop - start, 0)


def _axis(
    first: NDArray[np.int64], count: NDArray[np.int64], low: NDArray[np.float32], high: NDArray[np.float32], cells: int
) -> Axis:
    """Cells and fractions in torch's float32 steps."""
    one, two = np.float32(1), np.float32(2)
    index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    low, high = np.repeat(low, count), np.repeat(high, count)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        grid = (index.astype(np.float32) + np.float32(0.5) - low) / (high - low) * two - one
        # torch's kernel fuses this multiply and subtract: one rounding, as from float64.
        wide = ((grid + one).astype(np.float64) * (cells / 2) - 0.5).astype(np.float32)
    position = np.clip(np.nan_to_num(wide, nan=-2.0), -_BEFORE, cells + 1)
    floor = np.floor(position)
    return Axis(first, count, floor.astype(np.int64) + _BEFORE, position - floor)


def sample(
    wide: NDArray[np.float32], box: NDArray[np.int64], y: NDArray[np.int64], fy: NDArray[np.float32],
    x: NDArray[np.int64], fx: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    """Single points in the order of operations of torch's CPU kernel, which fuses all additions with their products.

    Args:
        wide: as `widened` gives it.
        box: whose mask, int64 [k].
        y, x: cells before each point; fy, fx: fractions.
    """
    south, east = np.float32(1) - fy, np.float32(1) - fx
    corners = ((0, 1, south * fx), (1, 0, fy * east), (1, 1, fy * fx))
    with np.errstate(invalid="ignore"):
        value = wide[box, y, x] * (south * east)
        for down, across, weight in corners:
            value = (wide[box, y + down, x + across].astype(np.float64) * weight + value).astype(np.float32)
    return value
