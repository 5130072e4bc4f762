"""Reads stride, offset and cell anchors off the anchors of one level."""

from __future__ import annotations

import math

import numpy as np

from onnxgraft.errors import Refusal


def grid_stride(anchors: np.ndarray, height: int, width: int, image: tuple[int, int], node: str) -> int:
    """The distance of neighbouring anchors, in pixels.

    Args:
        anchors: [H * W * A, 4], by row, column and cell anchor.
        image: height and width, for levels of a single location.
        node: named in refusals.

    Raises:
        Refusal: the anchors are no regular grid, or no boxes.
    """
    if not anchors.size or not np.isfinite(anchors).all():
        raise Refusal("the anchors are not finite, or there are none", node)
    if not (anchors[:, 2:] > anchors[:, :2]).all():
        raise Refusal("the anchors are inverted or empty: their right and bottom do not lie behind left and top", node)
    grid = anchors.reshape(height, width, -1, 4)
    steps = []
    if width > 1:
        steps.append(float(np.quantile(grid[:, 1:, :, 0] - grid[:, :-1, :, 0], 0.5)))
    if height > 1:
        steps.append(float(np.quantile(grid[1:, :, :, 1] - grid[:-1, :, :, 1], 0.5)))
    if not steps:
        steps.append(2.0 ** round(math.log2(max(image) / max(height, width))))
    if max(steps) - min(steps) > 1e-2 or abs(steps[0] - round(steps[0])) > 1e-2 or round(steps[0]) < 1:
        raise Refusal(f"the anchors are no regular grid: steps {steps}", node)
    return round(steps[0])


