"""Proposals for a Fast R-CNN, which classifies boxes that come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError
from onnxgraft.files import read_json
from onnxgraft.runtime.images import Placement

# The file of an image (None for an array) and its height and width -> boxes [R, 4], its pixels, best first.
Proposals = Callable[[Path | None, tuple[int, int]], NDArray[np.float32]]


def none(file: Path | None, size: tuple[int, int]) -> NDArray[np.float32]:
    """What stands in where nobody gave any boxes [R, 4]. Raises InputError."""
    raise InputError("this network classifies proposals: give them with --proposals FILE.json")


def grid(file: Path | None, size: tuple[int, int], rows: int = 256) -> NDArray[np.float32]:
    """Boxes of several sizes all over an image, to compare two forms of one network on.

    Args:
        file: not read; `Proposals` have it.
        size: height and width of the image in pixels.
        rows: how many boxes.

    Returns:
        float32 [rows, 4], x1, y1, x2, y2 in pixels of the image.
    """
    height, width = size
    steps = np.arange(rows, dtype=np.float32)
    side = min(height, width) / 2 ** (1 + steps % 4)
    x, y = (steps * 0.618034 % 1) * (width - side), (steps * 0.754878 % 1) * (height - side)
    return np.stack([x, y, x + side, y + side * (0.75 + 0.25 * (steps % 2))], 1).astype(np.float32)


def read(path: Path) -> Proposals:
    """Proposals out of a list of {"file", "boxes"}, as `infer --json` of an RPN writes it; found by the file's name.

    Raises:
        InputError: the file cannot be read, and later: it has nothing about an image.
    """
    held = read_json(path, "proposals")
    try:
        boxes = {Path(row["file"]).name: np.asarray(row["boxes"], np.float32).reshape(-1, 4) for row in held}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        form = '{"file": name, "boxes": [[x1, y1, x2, y2], ...]}'
        raise InputError(f"{path}: no proposals: expected a list of {form}") from error

    def of(file: Path | None, size: tuple[int, int]) -> NDArray[np.float32]:
        name = file.name if file else ""
        if name not in boxes:
            raise InputError(f"{path}: has no proposals for {name!r}")
        return boxes[name]

    return of


def place(boxes: NDArray[np.float32], placement: Placement, rows: int) -> NDArray[np.float32]:
    """The best boxes of an image as they lie on the canvas.

    Args:
        boxes: float32 [R, 4], x1, y1, x2, y2 in pixels of the original image, best first.
        placement: of the image.
        rows: how many the network takes.

    Returns:
        float32 [rows, 4] in pixels of the canvas: clipped to the image, without empty ones, then zeros.
    """
    (height, width), (new_height, new_width) = placement.original, placement.resized
    scaled = boxes * np.array([new_width / width, new_height / height] * 2, np.float32)
    scaled = np.clip(scaled, 0, np.array([new_width, new_height] * 2, np.float32))
    scaled = scaled[(scaled[:, 2] > scaled[:, 0]) & (scaled[:, 3] > scaled[:, 1])][:rows]
    placed = np.zeros((rows, 4), np.float32)
    placed[: len(scaled)] = scaled
    return placed
