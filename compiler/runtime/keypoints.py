"""Keypoint heatmaps become keypoints, as detectron2's heatmaps_to_keypoints reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime import interpolation

_UNSURE = 1e-5  # of the largest magnitude: the fast form is off by some 1e-6, so recompute what lies this near the top


def decode(heatmaps: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keypoints float32 [n, K, 3]: x, y and score.

    Each heatmap is enlarged (bicubic) to its box in whole pixels; its highest pixel, at its centre, is the keypoint.
    Scores lie above 0: the softmax over the enlarged map, normalised by the sum over the small one.

    Args:
        heatmaps: logits float32 [n, K, S, S].
        boxes: float32 [n, 4], x1, y1, x2, y2 in pixels of the image that the network saw.
    """
    found = np.zeros((*heatmaps.shape[:2], 3), np.float32)
    for row, maps, box in zip(found, heatmaps, boxes, strict=True):
        if np.isfinite(box).all():
            row[:] = _of_box(np.asarray(maps, np.float32), np.asarray(box, np.float32))
    return found


def _of_box(maps: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.float32]:
    extent = np.maximum(box[2:] - box[:2], np.float32(1))
    pixels = np.ceil(extent)
    columns, rows = (interpolation.cubic(maps.shape[-1], int(size)) for size in pixels)
    enlarged = interpolation.apply_fast(maps, rows, columns)
    found = np.empty((len(maps), 3), np.float32)
    for keypoint, (small, large) in enumerate(zip(maps, enlarged, strict=True)):
        y, x, top = _highest(small, large, rows, columns)
        found[keypoint, :2] = (np.array([x, y], np.float32) + np.float32(0.5)) * (extent / pixels) + box[:2]
        found[keypoint, 2] = 1 / np.exp(small - top).sum()
    return found


def _highest(
    small: NDArray[np.float32], large: NDArray[np.float32], rows: interpolation.Taps, columns: interpolation.Taps
) -> tuple[int, int, np.float32]:
    """Row, column and value of the highest pixel, the first of equals."""
    near = large.max() - np.float32(_UNSURE) * max(np.abs(small).max(), np.float32(1))
    y, x = np.nonzero(large >= near)
    values = interpolation.points(small, rows, columns, y, x)
    best = int(np.argmax(values))
    return int(y[best]), int(x[best]), values[best]
