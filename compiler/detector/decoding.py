"""What heatmaps and masks become in the picture, in float64: formulas that a file which decodes them itself is held against."""

from __future__ import annotations

import numpy as np


def keypoints(heatmaps: np.ndarray, boxes: np.ndarray, clear: float) -> tuple[np.ndarray, np.ndarray]:
    """heatmaps_to_keypoints (detectron2 structures/keypoints.py, torchvision models/detection/roi_heads.py).

    Args:
        heatmaps: logits [n, K, S, S]. boxes: [n, 4], pixels.
        clear: by which a map's highest pixel exceeds all others, where rounding does not choose between them.

    Returns:
        x and y in pixels and the logit there, float64 [n, K, 3]; and bool [n, K], where the highest pixel is clear.
    """
    found = np.zeros((*heatmaps.shape[:2], 3))
    sure = np.zeros(heatmaps.shape[:2], bool)
    for row, box in enumerate(boxes.astype(np.float64)):
        extent = np.maximum(box[2:] - box[:2], 1)
        columns, rows = (int(side) for side in np.ceil(extent))
        large = cubic(heatmaps.shape[2], rows) @ heatmaps[row].astype(np.float64) @ cubic(heatmaps.shape[3], columns).T
        flat = large.reshape(len(large), -1)
        best = flat.argmax(1)
        middle = np.stack([best % columns, best // columns], 1) + 0.5
        found[row, :, :2] = middle * extent / np.ceil(extent) + box[:2]
        found[row, :, 2] = flat.max(1)
        sure[row] = (flat > flat.max(1, keepdims=True) - clear).sum(1) == 1
    return found, sure


def cubic(cells: int, pixels: int) -> np.ndarray:
    """Bicubic interpolation of one axis as PyTorch's and ONNX's (half pixels, a = -0.75), float64 [pixels, cells]."""
    position = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    matrix = np.zeros((pixels, cells))
    for tap in range(-1, 3):
        near = np.floor(position) + tap
        far, a = np.abs(position - near), -0.75
        inner, outer = (a + 2) * far**3 - (a + 3) * far**2 + 1, a * (far**3 - 5 * far**2 + 8 * far - 4)
        np.add.at(matrix, (np.arange(pixels), near.clip(0, cells - 1).astype(int)), np.where(far <= 1, inner, outer))
    return matrix


def pasted(masks: np.ndarray, boxes: np.ndarray, image: tuple[int, int]) -> np.ndarray:
    """paste_masks_in_image (torchvision models/detection/roi_heads.py): masks in their boxes, enlarged by a cell around.

    Args:
        masks: probabilities [n, M, M]. boxes: float32 [n, 4], pixels. image: height and width.

    Returns:
        float64 [n, height, width], zeros outside of a box.
    """
    found, cells = np.zeros((len(masks), *image)), masks.shape[1]
    half, middle = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5), (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    half = half * (np.float32(cells + 2) / np.float32(cells))
    for row, (mask, low, high) in enumerate(zip(masks, (middle - half).astype(int), (middle + half).astype(int), strict=True)):
        columns, rows = np.maximum(high - low + 1, 1)
        large = linear(cells + 2, rows) @ np.pad(mask.astype(np.float64), 1) @ linear(cells + 2, columns).T
        (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(high + 1, image[::-1])
        found[row, y0:y1, x0:x1] = large[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
    return found


def linear(cells: int, pixels: int) -> np.ndarray:
    """Linear interpolation of one axis as PyTorch's and ONNX's (half pixels), float64 [pixels, cells]."""
    position = np.maximum((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0)
    low = np.floor(position).astype(int)
    matrix = np.zeros((pixels, cells))
    np.add.at(matrix, (np.arange(pixels), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(pixels), np.minimum(low + 1, cells - 1)), position - low)
    return matrix
