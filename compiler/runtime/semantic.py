"""Semantic logits on the canvas become a class for every pixel of the original image, as detectron2's
sem_seg_postprocess and argmax give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask
from numpy.typing import NDArray

from onnxgraft.runtime import interpolation
from onnxgraft.runtime.images import Placement


def labels(logits: NDArray[np.float32], placement: Placement) -> NDArray[np.int32]:
    """The class of each pixel of the original image: int32 [H, W].

    logits: float32 [C, h, w] on the canvas at a whole stride. They are enlarged by the stride, cut to the image, resized
    to the original's size, each step bilinear in float32, and the largest wins (the first of equals).
    """
    steps = _steps(logits.shape[1:], placement)
    best = np.full(placement.original, -np.inf, np.float32)
    found = np.zeros(placement.original, np.int32)
    for index, plane in enumerate(logits):
        plane = np.asarray(plane, np.float32)
        for rows, columns in steps:
            plane = interpolation.apply(plane, rows, columns)
        better = plane > best
        np.copyto(best, plane, where=better)
        found[better] = index
    return found


def resized(logits: NDArray[np.float32], placement: Placement) -> NDArray[np.float32]:
    """detectron2's sem_seg_postprocess: logits float32 [C, h, w] on the canvas as float32 [C, H, W] of the original image."""
    steps = _steps(logits.shape[1:], placement)
    found = np.empty((len(logits), *placement.original), np.float32)
    for plane, place in zip(logits, found, strict=True):
        plane = np.asarray(plane, np.float32)
        for rows, columns in steps:
            plane = interpolation.apply(plane, rows, columns)
        place[:] = plane
    return found


def enlarged(logits: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Logits float32 [C, h, w] as float32 [C, h * factor, w * factor], bilinear, as the head's own last step."""
    height, width = (int(d) for d in logits.shape[1:])
    rows, columns = (interpolation.linear(n, n * factor, factor) for n in (height, width))
    return np.stack([interpolation.apply(np.asarray(plane, np.float32), rows, columns) for plane in logits])


def encode(classes: NDArray[np.int32], names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A semantic map as COCO's stuff results, one entry per class that occurs.

    Args:
        classes: class index of each pixel, int32 [H, W].
        names: of the classes, as far as they are known.

    Returns:
        [{"category_id": class index, "name", "segmentation": {"size": [H, W], "counts": run-length text}}]; "name" is
        absent where it is not known.
    """
    entries = []
    for label in np.unique(classes).tolist():
        rle = coco_mask.encode(np.asfortranarray(classes == label, dtype=np.uint8))
        counts = rle["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
        size = [int(classes.shape[0]), int(classes.shape[1])]
        name = {"name": names[label]} if label < len(names) else {}
        entries.append({"category_id": int(label), **name, "segmentation": {"size": size, "counts": text}})
    return entries


def _steps(cells: tuple[int, ...], placement: Placement) -> list[tuple[interpolation.Taps, interpolation.Taps]]:
    """The resizes as (rows, columns): up to the canvas, of which only the image is kept, then to the original."""
    (rows, columns) = (
        interpolation.linear(n, size, size / n).cropped(kept)
        for n, size, kept in zip(cells, placement.canvas, placement.resized, strict=True)
    )
    steps = [(rows, columns)]
    if placement.resized != placement.original:
        resize = [interpolation.linear(a, b) for a, b in zip(placement.resized, placement.original, strict=True)]
        steps.append((resize[0], resize[1]))
    return steps
