"""Where labels of a drawn picture go, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_REACH = 6  # plates up and down, and half plates aside, that a label may be away from its box


def arrange(
    boxes: NDArray[np.int64], plates: Sequence[tuple[int, int]], canvas: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """A place for each label, the first ones choosing first.

    Args:
        boxes: int64 [n, 4], x1, y1, x2, y2 of what each label names, in pixels.
        plates: width and height of each label in pixels.
        canvas: height and width of the picture.

    Returns:
        Left and top of each plate, inside the picture and clear of all before it; None where there is no room near its box.
    """
    taken = np.zeros((0, 4), np.int64)
    places: list[tuple[int, int] | None] = []
    for box, plate in zip(boxes.tolist(), plates, strict=True):
        candidates = _candidates(box, plate, canvas)
        free = _free(candidates, plate, taken)
        if not len(free):
            places.append(None)
            continue
        left, top = (int(v) for v in candidates[free[0]])
        taken = np.concatenate([taken, [[left, top, left + plate[0], top + plate[1]]]])
        places.append((left, top))
    return places


def _candidates(box: list[int], plate: tuple[int, int], canvas: tuple[int, int]) -> NDArray[np.int64]:
    """Left and top of the places to try, int64 [k, 2], the best first: above the box, in its top, below it, then around."""
    (x1, y1, x2, y2), (width, height) = box, plate
    near = [(x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height), (x2 - width, y1), (x2 - width, y2),
            (x1, y2 - height), (x2 - width, y2 - height)]  # fmt: skip
    steps = np.arange(-2 * _REACH, 2 * _REACH + 1)
    rows, columns = np.meshgrid(steps, steps, indexing="ij")
    away = np.hypot(rows, columns * max(1.0, width / (4 * height))).ravel()
    order = np.argsort(away, kind="stable")
    around = np.stack([x1 + columns.ravel() * (width // 4), y1 - height + rows.ravel() * (height // 2)], 1)[order]
    places = np.concatenate([np.array(near, np.int64), around.astype(np.int64)])
    limits = np.array([max(0, canvas[1] - width), max(0, canvas[0] - height)])
    return np.clip(places, 0, limits)


def _free(candidates: NDArray[np.int64], plate: tuple[int, int], taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which candidates touch nothing that is taken (int64 [t, 4])."""
    left, top = candidates[:, :1], candidates[:, 1:]
    apart = (left >= taken[:, 2]) | (left + plate[0] <= taken[:, 0]) | (top >= taken[:, 3]) | (top + plate[1] <= taken[:, 1])
    return np.nonzero(apart.all(axis=1))[0]
