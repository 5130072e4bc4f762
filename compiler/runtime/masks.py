"""Mask probabilities over a box become a binary mask of the image, as detectron2 pastes them.

The numbers are those of detectron2/layers/mask_ops.py on a CPU, bit for bit, then `>= threshold`; see mask_grid.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

from onnxgraft.runtime import rle
from onnxgraft.runtime.mask_edges import Edges, edges


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
    for found in edges(masks, boxes, size, threshold, columns=False):
        yield Patch(found.top, found.left, _filled(found))


def encode(
    masks: NDArray[np.float32],
    boxes: NDArray[np.float32],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> list[dict[str, Any]]:
    """COCO run-length encoding of each mask of `paste`, whose arguments it takes: {"size": [H, W], "counts": str}.

    No mask is pasted for it: runs are made of the masks' edges.
    """
    return rle.encoded([found.turns for found in edges(masks, boxes, size, threshold, columns=True)], size)


def decode(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """The binary mask bool [H, W] of a COCO run-length encoding."""
    return np.asarray(coco_mask.decode(rle)).astype(bool)


def _filled(found: Edges) -> NDArray[np.bool_]:
    ends = np.concatenate([[0], found.turns, [found.height * found.width]])
    runs = np.diff(ends)
    set_ = np.arange(len(runs)) % 2 == 1
    return np.repeat(set_, runs).reshape(found.height, found.width)
