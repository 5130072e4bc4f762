"""Formulas of detectron2's boxes and anchors in NumPy."""

from __future__ import annotations

import numpy as np

from onnxgraft.detector.spec import BoxCoder, DenseLevel, RPNLevel


def cell_anchors(first: np.ndarray, stride: int) -> tuple[np.ndarray, float]:
    """Cell anchors [A, 4] and their offset in strides, from the anchors of location (0, 0)."""
    centre = (first[:, :2].astype(np.float64) + first[:, 2:]) / 2
    offset = round(float(centre.mean()) / stride, 3)
    return (first - np.float32(offset * stride)).astype(np.float32), offset


def decode(reference: np.ndarray, deltas: np.ndarray, coder: BoxCoder) -> np.ndarray:
    """Box2BoxTransform.apply_deltas (detectron2 modeling/box_regression.py) in float64.

    Args:
        reference: anchors or proposals [n, 4], x1 y1 x2 y2.
        deltas: [n, 4], dx dy dw dh.
    """
    reference, deltas = reference.astype(np.float64), deltas.astype(np.float64)
    size = reference[:, 2:] - reference[:, :2]
    centre = reference[:, :2] + 0.5 * size
    scaled = deltas / np.array(coder.weights)
    centre = scaled[:, :2] * size + centre
    size = np.exp(np.minimum(scaled[:, 2:], coder.scale_clamp)) * size
    return np.concatenate([centre - 0.5 * size, centre + 0.5 * size], 1)


def decode_linear(reference: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Box2BoxTransformLinear.apply_deltas with normalize_by_size (detectron2 modeling/box_regression.py) in float64.

    Args:
        reference: anchors [n, 4], x1 y1 x2 y2.
        deltas: [n, 4], distances from the anchor's centre to left, top, right, bottom, in anchor sizes.
    """
    reference, deltas = reference.astype(np.float64), np.maximum(deltas.astype(np.float64), 0)
    centre = 0.5 * (reference[:, :2] + reference[:, 2:])
    reach = deltas * np.tile(reference[:, 2:] - reference[:, :2], 2)
    return np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], 1)


def grid_anchors(level: RPNLevel | DenseLevel, rows: np.ndarray | None = None) -> np.ndarray:
    """DefaultAnchorGenerator's anchors (detectron2 modeling/anchor_generator.py): float32 [H * W * A, 4], pixels.

    Args:
        rows: int64 [k], those of them that are wanted, [k, 4]; None for all.
    """
    across, down = _steps(level)
    cells = np.array(level.cell_anchors, np.float32)
    x = np.arange(level.width, dtype=np.float32) * np.float32(across) + np.float32(level.anchor_offset * across)
    y = np.arange(level.height, dtype=np.float32) * np.float32(down) + np.float32(level.anchor_offset * down)
    if rows is not None:
        place, anchor = np.divmod(rows, len(cells))
        shift_y, shift_x = y[place // level.width], x[place % level.width]
        return np.asarray(np.stack([shift_x, shift_y, shift_x, shift_y], -1) + cells[anchor])
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    shifts = np.stack([grid_x, grid_y, grid_x, grid_y], -1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)


def _steps(level: RPNLevel | DenseLevel) -> tuple[float, float]:
    """How far neighbouring columns and rows of anchors are apart, in pixels."""
    exact = level.step if isinstance(level, DenseLevel) else None
    return exact or (level.stride, level.stride_y or level.stride)
