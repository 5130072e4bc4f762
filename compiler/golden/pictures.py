"""Pictures that follow from a seed by exact integer arithmetic, so that every machine draws the same bytes."""

from __future__ import annotations

import numpy as np

BLOCKS = (128, 64, 32, 16, 8, 4, 2, 1)  # sides of the random blocks that are averaged, in pixels


def blocks(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A uint8 BGR image [H,W,3] of random blocks of every scale, coarse ones the strongest."""
    height, width = size
    bits = np.random.Philox(key=np.array([seed, 0], np.uint64))
    total = np.zeros((height, width, 3), np.int64)
    for side in BLOCKS:
        rows, columns = -(-height // side), -(-width // side)
        words = bits.random_raw(rows * columns * 3) >> np.uint64(56)
        grid = words.astype(np.int64).reshape(rows, columns, 3)
        total += np.kron(grid, np.ones((side, side, 1), np.int64))[:height, :width] * _weight(side)
    return (total // sum(map(_weight, BLOCKS))).astype(np.uint8)


def _weight(side: int) -> int:
    return 4 if side >= 32 else 2 if side >= 4 else 1
