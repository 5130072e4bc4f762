"""Mask probabilities over a box become a binary mask of the image, as detectron2 pastes them.

The numbers are those of detectron2/layers/mask_ops.py on a CPU: torch's grid_sample with
align_corners=False and zeros outside, in the box grown by one pixel, then `>= threshold`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

_UNSURE = 1e-5  # the fast form is off by some 1e-7: recompute what lies this near the threshold


@dataclass(frozen=True, eq=False)
class Patch:
    """The part of an image that a pasted mask can touch: bool [h, w] at (top, left)."""

    top: int
    left: int
    mask: NDArray[np.bool_]

    @property
    def slices(self) -> tuple[slice, slice]:
        """Where the patch lies in the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def paste(
    masks: NDArray[np.float32],
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> NDArray[np.bool_]:
    """Binary masks bool [n, H, W] of an image of `size` (H, W).

    masks: probabilities [n, M, M] over boxes [n, 4] (x1, y1, x2, y2, pixels). For many masks on
    a large image, `patches` and `encode` need far less memory.
    """
    pasted = np.zeros((len(masks), *size), bool)
    for canvas, patch in zip(pasted, patches(masks, boxes, size, threshold), strict=True):
        canvas[patch.slices] = patch.mask
    return pasted


def patches(
    masks: NDArray[np.float32],
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> Iterator[Patch]:
    """The masks of `paste` one at a time, each only where it can be set.

    Args:
        masks: probabilities float32 [n, M, M] over the boxes.
        boxes: float32 [n, 4], x1, y1, x2, y2 in pixels of the image.
        size: height and width of the image.
        threshold: the least probability of a pixel that is set.
    """
    for mask, box in zip(masks, boxes, strict=True):
        yield _patch(mask.astype(np.float32), box.astype(np.float32), size, threshold)


def encode(
    masks: NDArray[np.float32],
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> list[dict[str, Any]]:
    """COCO run-length encoding of each mask of `paste`, whose arguments it takes: {"size": [H, W], "counts": str}."""
    canvas = np.zeros(size, np.uint8, order="F")
    encoded = []
    for patch in patches(masks, boxes, size, threshold):
        canvas[patch.slices] = patch.mask
        rle = coco_mask.encode(canvas)
        canvas[patch.slices] = 0
        counts = rle["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
        encoded.append({"size": [int(size[0]), int(size[1])], "counts": text})
    return encoded


def decode(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """The binary mask bool [H, W] of a COCO run-length encoding."""
    return np.asarray(coco_mask.decode(rle)).astype(bool)


def _patch(mask: NDArray[np.float32], box: NDArray[np.float32], size: tuple[int, int], threshold: float) -> Patch:
    if not np.isfinite(box).all():
        return Patch(0, 0, np.zeros((0, 0), bool))
    left, right = _span(box[0], box[2], size[1])
    top, bottom = _span(box[1], box[3], size[0])
    if right <= left or bottom <= top:
        return Patch(0, 0, np.zeros((0, 0), bool))
    # A frame of zeros stands for grid_sample's padding; positions beyond it are zero as well.
    framed = np.pad(mask, 1)
    x0, fx = _positions(left, right, box[0], box[2], mask.shape[1])
    y0, fy = _positions(top, bottom, box[1], box[3], mask.shape[0])
    values = _interpolation(y0, fy, len(framed)) @ framed @ _interpolation(x0, fx, len(framed)).T
    pasted = values >= np.float32(threshold)
    rows, columns = np.nonzero(np.abs(values - np.float32(threshold)) < _UNSURE)
    if len(rows):
        exact = _grid_sample(framed, y0[rows], fy[rows], x0[columns], fx[columns])
        pasted[rows, columns] = exact >= np.float32(threshold)
    return Patch(top, left, pasted)


def _span(low: np.float32, high: np.float32, limit: int) -> tuple[int, int]:
    start = int(np.clip(np.floor(low) - 1, 0, limit))
    return start, int(np.clip(np.ceil(high) + 1, 0, limit))


def _positions(
    start: int, stop: int, low: np.float32, high: np.float32, cells: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Left cell (in the framed mask) and fraction of each pixel centre; torch's float32 steps."""
    one, two = np.float32(1), np.float32(2)
    pixel = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        grid = (pixel - low) / (high - low) * two - one
    # torch's kernel fuses this multiply and subtract: one rounding, as from float64.
    wide = (grid + one).astype(np.float64) * (cells / 2) - 0.5
    position = np.clip(np.nan_to_num(wide.astype(np.float32), nan=-2.0), -2, cells + 1)
    floor = np.floor(position)
    return floor.astype(np.int64) + 1, position - floor


def _interpolation(first: NDArray[np.int64], fraction: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    """Matrix [pixels, cells] that interpolates along one axis of the framed mask."""
    matrix = np.zeros((len(first), cells + 3), np.float32)
    rows = np.arange(len(first))
    matrix[rows, first + 1] = np.float32(1) - fraction
    matrix[rows, first + 2] = fraction
    return matrix[:, 1 : cells + 1]


def _grid_sample(
    framed: NDArray[np.float32],
    y0: NDArray[np.int64],
    fy: NDArray[np.float32],
    x0: NDArray[np.int64],
    fx: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Single points in the order of operations of torch's CPU kernel."""
    wide = np.pad(framed, ((1, 2), (1, 2)))
    y, x = y0 + 1, x0 + 1
    south, east = np.float32(1) - fy, np.float32(1) - fx
    value = wide[y, x] * (east * south)
    value = value + wide[y, x + 1] * (fx * south)
    value = value + wide[y + 1, x] * (east * fy)
    return value + wide[y + 1, x + 1] * (fx * fy)
