"""COCO's run-length encoding, from the places where a mask begins and ends."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ZERO, _MORE, _SIGN = 48, 32, 16  # of COCO's digits: the character of 0, "another follows", the sign of the last


def encoded(turns: Sequence[NDArray[np.int64]], size: tuple[int, int]) -> list[dict[str, Any]]:
    """{"size": [H, W], "counts": str} of each mask, as pycocotools.mask.encode gives them.

    Args:
        turns: places where a mask begins and ends in turn, counted down the columns of the image, in rising order.
        size: height and width of the image.
    """
    whole = size[0] * size[1]
    counts = [_counts(places, whole) for places in turns]
    return [{"size": [int(size[0]), int(size[1])], "counts": text} for text in _texts(counts)]


def _counts(places: NDArray[np.int64], whole: int) -> NDArray[np.int64]:
    """Lengths of runs, of unset and set pixels in turn."""
    ends = places if len(places) and places[-1] == whole else np.append(places, whole)
    return np.diff(ends, prepend=0)


def _texts(counts: Sequence[NDArray[np.int64]]) -> list[str]:
    """Each mask's counts in COCO's digits, five bits a character: from the fourth on less the count before the last."""
    lengths = np.array([len(c) for c in counts], np.int64)
    if not len(lengths):
        return []
    left = np.concatenate(counts)
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)
    later = np.flatnonzero(np.arange(len(left)) - start > 2)
    left[later] -= np.concatenate(counts)[later - 2]
    digits, used = [], []
    open_ = np.ones(len(left), bool)
    while open_.any():
        digit = left & 31
        left >>= 5
        more = np.where(digit & _SIGN, left != -1, left != 0)
        digits.append(digit + _ZERO + _MORE * more)
        used.append(open_)
        open_ = open_ & more
    written = np.stack(used, axis=1)
    text = np.stack(digits, axis=1).astype(np.uint8)[written].tobytes().decode("ascii")
    ends = [0, *np.cumsum(written.sum(axis=1))[np.cumsum(lengths) - 1].tolist()]
    return [text[a:b] for a, b in itertools.pairwise(ends)]
