"""Reads stride, offset and cell anchors off the anchors of one level."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.traverse import ancestors_before, descendants

_WHOLE = 1e-3  # pixels by which a step may be off a whole number, over the map


@dataclass(frozen=True)
class Grid:
    """Anchors of a level as the fields of a spec's level say them: cell anchors [A, 4] around the first location's centre."""

    stride: int
    stride_y: int | None
    step: tuple[float, float] | None
    cell_anchors: tuple[tuple[float, float, float, float], ...]
    anchor_offset: float


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


def read_grid(anchors: np.ndarray, height: int, width: int, image: tuple[int, int], node: str) -> Grid:
    """The grid of anchors whose steps may be fractions of a pixel, as SSD's on maps that do not divide the image.

    Args:
        anchors: float32 [H * W * A, 4], by row, column and cell anchor, in pixels.
        image: height and width, for levels of a single location.
        node: named in refusals.

    Raises:
        Refusal: the anchors are not finite, inverted, or as near to one another as half a pixel.
    """
    if not anchors.size or not np.isfinite(anchors).all() or not (anchors[:, 2:] > anchors[:, :2]).all():
        raise Refusal("the anchors are not finite, or no boxes: their right and bottom do not lie behind left and top", node)
    grid = anchors.reshape(height, width, -1, 4).astype(np.float64)
    alone = 2.0 ** round(math.log2(max(image) / max(height, width)))
    across = float((grid[:, -1] - grid[:, 0])[..., ::2].mean()) / (width - 1) if width > 1 else None
    down = float((grid[-1] - grid[0])[..., 1::2].mean()) / (height - 1) if height > 1 else None
    steps = [_nearly_whole(step, size) for step, size in ((across or down or alone, width), (down or across or alone, height))]
    stride, stride_y = (round(step) for step in steps)
    if min(stride, stride_y) < 1:
        raise Refusal(f"the anchors are no regular grid: steps {steps}", node)
    first = grid[0, 0]
    offset = round(float((first[:, 0] + first[:, 2]).mean()) / 2 / steps[0], 3)
    cells = grid[0, 0] - np.float32(offset * np.array(steps * 2))
    return Grid(
        stride=stride,
        stride_y=None if stride_y == stride else stride_y,
        step=None if steps == [stride, stride_y] else (steps[0], steps[1]),
        cell_anchors=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in cells.astype(np.float32)),
        anchor_offset=offset,
    )


def _nearly_whole(step: float, size: int) -> float:
    return float(round(step)) if abs(step - round(step)) * size < _WHOLE else step


def anchors_before(decoded: gs.Tensor, deltas: Iterable[gs.Tensor], count: int) -> gs.Tensor | None:
    """The nearest tensor [count, 4] or [1, count, 4] of a decoder that does not depend on the deltas; else None."""
    moving = set[int]().union(*(descendants(tensor) for tensor in deltas))
    for node in ancestors_before(decoded, {"Conv"}):
        for tensor in node.inputs:
            shape = tensor.shape
            if id(tensor) not in moving and shape and shape[-1] == 4 and list(shape) in ([count, 4], [1, count, 4]):
                return tensor
    return None
