"""torch's F.interpolate(align_corners=False) on a CPU: bilinear and bicubic, in float32 and in its order of operations.

One axis at a time, the last one first: each pixel is a sum of two (bilinear) or four (bicubic, a = -0.75) neighbouring
cells, cells beyond the edge being the edge's own (aten/src/ATen/native/UpSample.h and cpu/UpSampleKernel.cpp). Bilinear
pictures of more than 128 rows and columns together equal torch's bit for bit (smaller ones go through another kernel); of
bicubic pixels a few in a hundred differ by 1e-6 of the largest cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_A = np.float32(-0.75)
_ONE, _HALF = np.float32(1), np.float32(0.5)


@dataclass(frozen=True, eq=False)
class Taps:
    """Which cells make each pixel of one axis: cells int64 [pixels, t], weights float32 [pixels, t], of `size` cells."""

    size: int
    cells: NDArray[np.int64]
    weights: NDArray[np.float32]

    def cropped(self, pixels: int) -> Taps:
        """Those of the first pixels."""
        return Taps(self.size, self.cells[:pixels], self.weights[:pixels])

    def matrix(self) -> NDArray[np.float32]:
        """The same as a matrix [pixels, size]."""
        matrix = np.zeros((len(self.cells), self.size), np.float32)
        rows = np.arange(len(self.cells))
        for column, weight in zip(self.cells.T, self.weights.T, strict=True):
            np.add.at(matrix, (rows, column), weight)
        return matrix


def linear(cells: int, pixels: int, factor: float | None = None) -> Taps:
    """Bilinear taps of one axis. factor: the scale factor where that was asked for instead of a size."""
    if cells == pixels:
        index = np.arange(cells)[:, None]
        return Taps(cells, index, np.ones((cells, 1), np.float32))
    position = np.maximum(_positions(cells, pixels, factor), np.float32(0))
    low = np.minimum(np.floor(position).astype(np.int64), cells - 1)
    fraction = np.clip(position - low.astype(np.float32), 0, 1)
    return Taps(cells, np.stack([low, np.minimum(low + 1, cells - 1)], 1), np.stack([_ONE - fraction, fraction], 1))


def cubic(cells: int, pixels: int) -> Taps:
    """Bicubic taps of one axis."""
    position = _positions(cells, pixels, None)
    low = np.minimum(np.floor(position).astype(np.int64), cells - 1)
    t = np.clip(position - low.astype(np.float32), 0, 1)
    around = np.clip(low[:, None] + np.arange(-1, 3), 0, cells - 1)
    return Taps(cells, around, np.stack([_outer(t + _ONE), _inner(t), _inner(_ONE - t), _outer(_ONE - t + _ONE)], 1))


def apply(values: NDArray[np.float32], rows: Taps, columns: Taps) -> NDArray[np.float32]:
    """Interpolate [..., h, w] to [..., H, W]."""
    across = _sum([(values.take(c, axis=-1), w) for c, w in zip(columns.cells.T, columns.weights.T, strict=True)])
    return _sum([(across.take(c, axis=-2), w[:, None]) for c, w in zip(rows.cells.T, rows.weights.T, strict=True)])


def apply_fast(values: NDArray[np.float32], rows: Taps, columns: Taps) -> NDArray[np.float32]:
    """[..., h, w] to [..., H, W] as `apply`, within some 1e-6 of the largest magnitude, by two products of matrices."""
    return np.asarray(rows.matrix() @ values @ columns.matrix().T, np.float32)


def points(
    values: NDArray[np.float32], rows: Taps, columns: Taps, y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What `apply` gives of [h, w] at the pixels (y, x): float32 [n]."""
    down, across = rows.cells[y], columns.cells[x]
    along = [
        (values[down[:, :, None], across[:, None, :]][..., i], columns.weights[x, i, None]) for i in range(across.shape[1])
    ]
    lines = _sum(along)
    return _sum([(lines[:, i], rows.weights[y, i]) for i in range(down.shape[1])])


def _positions(cells: int, pixels: int, factor: float | None) -> NDArray[np.float32]:
    scale = np.float32(cells) / np.float32(pixels) if factor is None else np.float32(1 / factor)
    return _fused(np.arange(pixels, dtype=np.float32) + _HALF, scale, -_HALF)


def _inner(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return ((_A + np.float32(2)) * x - (_A + np.float32(3))) * x * x + _ONE


def _outer(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return _fused(_A * x - np.float32(5) * _A, x, np.float32(8) * _A) * x - np.float32(4) * _A


def _sum(parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Sum of products, fused where torch's kernel fuses: the second product is rounded first, the others are added."""
    (first, weight), *others = parts
    if not others:
        return first * weight
    second, *rest = others
    total = _fused(first, weight, second[0] * second[1])
    for value, factor in rest:
        total = _fused(value, factor, total)
    return total


def _fused(
    a: NDArray[np.float32], b: NDArray[np.float32] | np.float32, c: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    """a * b + c with one rounding, as from float64."""
    return np.asarray(a.astype(np.float64) * b + c, np.float32)
