"""Detections on the canvas become detections of the original image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime import masks as mask_ops
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.keypoints import decode

_EDGE = 1e-3  # px: a box this near the valid region's edge ends at the edge


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """Detections in an image of `size` (H, W), boxes in its pixels and clipped to it.

    mask_boxes: float32 [n, 4], the boxes that the masks were predicted for. They differ from the
    detections' only where the network's box reached into the padding: clipping the box must not
    squeeze its mask.
    keypoints: float32 [n, K, 3], x, y in pixels and a score above 0, or None without a keypoint head.
    """

    detections: Detections
    size: tuple[int, int]
    mask_boxes: NDArray[np.float32]
    keypoints: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, detections: Detections, size: tuple[int, int]) -> ImageDetections:
        """Detections that are in the image's coordinates already."""
        return cls(detections, size, detections.boxes)

    def __len__(self) -> int:
        return len(self.detections)

    def select(self, index: NDArray[Any] | slice) -> ImageDetections:
        """Those that a mask bool [n], indices int64 [k] or a slice pick."""
        keypoints = None if self.keypoints is None else self.keypoints[index]
        return ImageDetections(self.detections.select(index), self.size, self.mask_boxes[index], keypoints)

    def patches(self, threshold: float = 0.5) -> Iterator[mask_ops.Patch]:
        """Pasted masks one at a time; nothing without a mask head."""
        masks = self.detections.masks
        if masks is None:
            return iter(())
        return mask_ops.patches(masks, self.mask_boxes, self.size, threshold)

    def pasted(self, threshold: float = 0.5) -> NDArray[np.bool_] | None:
        """Pasted masks bool [n, H, W], or None without a mask head."""
        masks = self.detections.masks
        if masks is None:
            return None
        return mask_ops.paste(masks, self.mask_boxes, self.size, threshold)

    def encoded(self, threshold: float = 0.5) -> list[dict[str, Any]] | None:
        """Pasted masks as COCO run-length encodings, or None without a mask head."""
        masks = self.detections.masks
        if masks is None:
            return None
        return mask_ops.encode(masks, self.mask_boxes, self.size, threshold)


def to_original(detections: Detections, placement: Placement) -> ImageDetections:
    """detectron2's detector_postprocess: boxes on the canvas (pixels) to the original image.

    x and y are scaled separately, boxes clipped to the image, and boxes without area dropped
    (those that lie wholly in the padding, too). Keypoints are decoded from the heatmaps on the canvas and scaled alike.
    """
    height, width = placement.original
    scale = np.array([placement.scale_x, placement.scale_y] * 2, np.float32)
    scaled = detections.boxes * scale
    limits = np.array([width, height] * 2, np.float32)
    clipped = np.clip(scaled, np.float32(0), limits)
    valid = np.array([placement.resized[1], placement.resized[0]], np.float32)
    padded = np.any(detections.boxes[:, 2:] > valid + _EDGE, axis=1)
    mask_boxes = np.where(padded[:, None], scaled, clipped)
    moved = Detections(clipped, detections.scores, detections.classes, detections.masks)
    keep = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    keypoints = None
    if detections.heatmaps is not None:
        keypoints = decode(detections.heatmaps, detections.boxes)
        keypoints[..., :2] *= scale[:2]
    return ImageDetections(moved, placement.original, mask_boxes, keypoints).select(keep)
