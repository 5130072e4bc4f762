"""Pictures of the detections that the numeric check found, kept in the build for its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.draw import draw
from onnxgraft.runtime.postprocess import ImageDetections

DRAWN = "drawn"
_MIN_SCORE = 0.3


def draw_detections(
    folder: Path, images: Sequence[NDArray[np.uint8]], found: Sequence[Detections], names: Sequence[str] = ()
) -> None:
    """drawn/image_N.jpg for each image (uint8 [H, W, 3] BGR, of the canvas size) with its detections; names: by class."""
    if not found:
        return
    (folder / DRAWN).mkdir(exist_ok=True)
    for index, (image, detections) in enumerate(zip(images, found, strict=True)):
        placed = ImageDetections.of(detections, (image.shape[0], image.shape[1]))
        cv2.imwrite(str(folder / DRAWN / f"image_{index}.jpg"), draw(image, placed, names, min_score=_MIN_SCORE))
