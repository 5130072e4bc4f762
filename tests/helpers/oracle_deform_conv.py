"""Deformable convolution once more, one sample after the other in NumPy: shares nothing with onnxgraft.plugins."""

from __future__ import annotations

import math

import numpy as np


def sample(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear value of a map whose outside is zero."""
    rows, columns = plane.shape
    if not (-1 < y < rows and -1 < x < columns):
        return 0.0
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < rows and 0 <= column < columns:
                total += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def deform_conv(
    x: np.ndarray,
    offset: np.ndarray,
    mask: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    group: int,
    deformable_group: int,
) -> np.ndarray:
    """Output [N,D,oH,oW]; pairs of numbers are (down, across)."""
    (images, channels, _, _), (outputs, per_group, kernel_h, kernel_w) = x.shape, weight.shape
    _, _, out_h, out_w = offset.shape
    result = np.zeros((images, outputs, out_h, out_w), np.float64)
    for n, row, column, i, j in np.ndindex(images, out_h, out_w, kernel_h, kernel_w):
        read = np.zeros(channels)
        for c in range(channels):
            part = c // (channels // deformable_group)
            tap = part * kernel_h * kernel_w + i * kernel_w + j
            at_y = row * stride[0] - padding[0] + i * dilation[0] + float(offset[n, 2 * tap, row, column])
            at_x = column * stride[1] - padding[1] + j * dilation[1] + float(offset[n, 2 * tap + 1, row, column])
            read[c] = sample(x[n, c], at_y, at_x) * float(mask[n, tap, row, column])
        for g in range(group):
            ours = slice(g * outputs // group, (g + 1) * outputs // group)
            result[n, ours, row, column] += weight[ours, :, i, j] @ read[g * per_group : (g + 1) * per_group]
    return (result + bias[None, :, None, None]).astype(np.float32)
