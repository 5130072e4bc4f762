"""Reads stride, offset and cell anchors off the anchors of one level."""

from __future__ import annotations

import math

import numpy as np

from onnxgraft.errors import Refusal


def grid_strides(
    anchors: np.ndarray, height: int, width: int, image: tuple[int, int], node: str
) -> tuple[int, int | None]:
    """The distance of neighbouring columns of anchors, in pixels, and that of rows where it is another.

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
    if any(abs(step - round(step)) > 1e-2 or round(step) < 1 for step in steps):
        raise Refusal(f"the anchors are no regular grid: steps {steps}", node)
    return round(steps[0]), None if round(steps[-1]) == round(steps[0]) else round(steps[-1])


