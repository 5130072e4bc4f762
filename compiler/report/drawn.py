"""Pictures of what proof and numeric check found, kept in the build for its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.draw import draw_result
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.postprocess import to_original
from onnxgraft.runtime.session import ImageResult

DRAWN = "drawn"
_MIN_SCORE = 0.3
_MOST = 8


def draw_detections(
    folder: Path, images: Sequence[NDArray[np.uint8]], found: Sequence[Detections], names: Sequence[str] = ()
) -> None:
    """drawn/image_N.jpg for the first images (uint8 [H, W, 3] BGR, of the canvas size) with what was found; names: by class."""
    if not found:
        return
    (folder / DRAWN).mkdir(exist_ok=True)
    for index, (image, detections) in enumerate(zip(images[:_MOST], found[:_MOST], strict=True)):
        size = (image.shape[0], image.shape[1])
        placement = Placement(size, size, size)
        result = ImageResult(None, image, placement, detections, to_original(detections, placement))
        cv2.imwrite(str(folder / DRAWN / f"image_{index}.jpg"), draw_result(result, names, min_score=_MIN_SCORE))
