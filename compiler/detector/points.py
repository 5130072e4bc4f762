"""PointRend's formulas in NumPy: where points lie in boxes and maps, and what is read there (projects/PointRend/point_rend/
point_features.py of detectron2)."""

from __future__ import annotations

import numpy as np


def regular_points(side: int) -> np.ndarray:
    """generate_regular_grid_point_coords: float64 [side * side, 2], x and y within a box whose corners are 0 and 1, by rows."""
    steps = (np.arange(side) + 0.5) / side
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return np.stack([x, y], -1).reshape(-1, 2)


def points_in_image(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """get_point_coords_wrt_image: points [D, P, 2] within boxes [D, 4] in pixels of the image, float64 [D, P, 2]."""
    boxes = boxes.astype(np.float64)
    return np.asarray(points * (boxes[:, None, 2:] - boxes[:, None, :2]) + boxes[:, None, :2])


def sample(planes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """grid_sample, bilinear, zeros outside, corners not aligned.

    Args:
        planes: [C, H, W].
        places: [P, 2], x and y, 0 and 1 at the outer edges of the first and the last cell.

    Returns:
        float64 [C, P].
    """
    _, height, width = planes.shape
    cells = places * [width, height] - 0.5
    low = np.floor(cells).astype(np.int64)
    found = np.zeros((len(planes), len(places)))
    for right in (0, 1):
        for below in (0, 1):
            x, y = low[:, 0] + right, low[:, 1] + below
            weight = (1 - np.abs(cells[:, 0] - x)) * (1 - np.abs(cells[:, 1] - y))
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            found[:, inside] += planes[:, y[inside], x[inside]] * weight[inside]
    return found


def doubled(grids: np.ndarray) -> np.ndarray:
    """Bilinear interpolation of [..., S, S] to [..., 2S, 2S], corners not aligned, edges repeated; float64."""
    for axis in (-2, -1):
        grids = np.moveaxis(np.asarray(grids, np.float64), axis, -1)
        before = np.concatenate([grids[..., :1], grids[..., :-1]], -1)
        behind = np.concatenate([grids[..., 1:], grids[..., -1:]], -1)
        pairs = np.stack([0.25 * before + 0.75 * grids, 0.75 * grids + 0.25 * behind], -1)
        grids = np.moveaxis(pairs.reshape(*grids.shape[:-1], -1), -1, axis)
    return grids


def least_certain(grids: np.ndarray, count: int) -> np.ndarray:
    """get_uncertain_point_coords_on_grid: places int64 [D, count] of the smallest magnitudes of [D, S, S], the smallest first,
    ties by their place."""
    return np.argsort(np.abs(grids).reshape(len(grids), -1), 1, kind="stable")[:, :count]


def points_of_grid(places: np.ndarray, side: int) -> np.ndarray:
    """The points [D, P, 2] within a box that places [D, P] of a grid of `side` stand for."""
    return np.asarray((np.stack([places % side, places // side], -1) + 0.5) / side)
