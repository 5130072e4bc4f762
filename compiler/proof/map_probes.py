"""Inputs of the parts that work on maps: the image, pooling, the boxes between a cascade's stages, masks and heatmaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxgraft.analysis.probes import noise_map
from onnxgraft.detector.spec import CascadeStage, DetectorSpec, Pooler
from onnxgraft.proof.probes import Probe, clamp_deltas, rng_of
from onnxgraft.proof.scenes import Boxes, Stage

_MOST = 2**26  # numbers of one array


def feature_map(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float32]:
    """[1, C, H, W]: channels are noise and slopes in turn, each its own."""
    _, c, h, w = shape
    features = noise_map(rng, (1, c, h, w))
    slopes = rng.uniform(-1, 1, (2, c, 1, 1)).astype(np.float32)
    y, x = np.linspace(-1, 1, h, dtype=np.float32)[:, None], np.linspace(-1, 1, w, dtype=np.float32)[None]
    features[0, 1::2] = slopes[0, 1::2] * y + slopes[1, 1::2] * x
    return features


def pooling_probes(spec: DetectorSpec, pooler: Pooler, maps: Sequence[Sequence[int]], rows: int) -> Iterator[Probe]:
    """Boxes and feature maps: roles boxes, map0, map1, ..."""
    rng = rng_of(4)
    feeds: dict[str, NDArray[np.generic]] = {f"map{i}": feature_map(rng, shape) for i, shape in enumerate(maps)}
    boxes = np.concatenate([_at_levels(spec, pooler, rng), pooled_boxes(spec, rng)])
    rows = min(rows, 100)
    for start in range(0, len(boxes), rows):
        yield Probe("boxes of all sizes", {**feeds, "boxes": boxes[start : start + rows].astype(np.float32)})


def pooled_boxes(spec: DetectorSpec, rng: np.random.Generator) -> Boxes:
    """float64 [n, 4] within the canvas: odd shapes, and some anywhere."""
    return np.concatenate([_shapes(spec), _anywhere(spec, rng)])


def _at_levels(spec: DetectorSpec, pooler: Pooler, rng: np.random.Generator) -> Boxes:
    """Boxes just under, over and exactly at each size at which the level changes, square and elongated."""
    canvas = np.array([spec.image.width, spec.image.height], np.float64)
    boxes = []
    for level in range(1, len(pooler.scales)):
        edge = pooler.canonical_size * 2.0 ** (pooler.min_level + level - pooler.canonical_level - pooler.level_shift)
        for size in (edge * (1 - 2e-3), edge * (1 + 2e-3)):
            for stretch in (1.03, 1.9, 0.53):
                side = np.array([size * stretch**0.5, size / stretch**0.5])
                if (side < canvas - 1).all():
                    corner = rng.uniform(0, 1, 2) * (canvas - side)
                    boxes.append([*corner, *(corner + side)])
        boxes += _on_boundary(edge, canvas)
    return np.array(boxes).reshape(-1, 4)


def _on_boundary(edge: float, canvas: NDArray[np.float64]) -> list[list[float]]:
    """Boxes of whole pixels whose area is exactly that at which a level begins, at both ends of the canvas.

    They are no squares: a bin of a whole number of cells has as many samples or one more, by rounding alone.
    """
    sides = [np.array([edge * 8 / 7, edge * 7 / 8]), np.array([edge * 7 / 8, edge * 8 / 7])]
    whole = [side for side in sides if (side == np.floor(side)).all() and (side <= canvas).all()]
    return [[*corner, *(corner + side)] for side in whole
            for corner in (np.zeros(2), np.floor((canvas - side) / 3), canvas - side)]  # fmt: skip


def _shapes(spec: DetectorSpec) -> Boxes:
    """Tiny, thin, long, at the far edges, as large as the canvas; within it, as every box that is pooled."""
    h, w = float(spec.image.height), float(spec.image.width)
    boxes = np.array([
        (10.2, 20.7, 11.3, 21.6), (5.3, 5.1, 5.9, 60.3), (30.2, 8.4, 90.1, 8.9), (0, 50.3, w, 58.1), (70.7, 0, 77.2, h),
        (w - 20.4, h - 17.3, w, h), (0, 0, 33.7, 21.3), (0, 0, w, h), (w - 1.3, 10.4, w, 55.8), (12.6, h - 2.7, 66.1, h),
    ], np.float64)  # fmt: skip
    inside = min(1.0, w / 96, h / 96)
    boxes[[0, 1, 2, 4, 6]] *= inside
    return np.minimum(boxes, [w, h, w, h])


def _anywhere(spec: DetectorSpec, rng: np.random.Generator) -> Boxes:
    size = np.array([spec.image.width, spec.image.height], np.float64)
    side = np.exp(rng.uniform(np.log(3), np.log(size), (24, 2)))
    corner = rng.uniform(0, 1, (24, 2)) * (size - side)
    return np.concatenate([corner, corner + side], axis=1)


def refinement_probes(spec: DetectorSpec, stage: CascadeStage, rows: int) -> Iterator[Probe]:
    """Boxes and deltas between two stages."""
    rng = rng_of(5)
    boxes = np.concatenate([_shapes(spec), _anywhere(spec, rng)])[:rows]
    canvas = Stage(spec.image.height, spec.image.width, 1, 0.0, 0.5, rows, rows)
    deltas = clamp_deltas(rng, stage.coder, boxes, canvas)
    deltas[::2] = rng.normal(0, 1, (len(deltas[::2]), 4))
    yield Probe("moved boxes", {"boxes": boxes.astype(np.float32), "deltas": deltas.astype(np.float32)})


def mask_probes(spec: DetectorSpec, channels: int, rows: int, first: int) -> Iterator[Probe]:
    """Logits [D, C, M, M] that differ in every cell, and classes that take every value from `first` on; role picked: those of
    each row's class, [D, 1, M, M]."""
    assert spec.mask_head is not None
    rng, m = rng_of(6), spec.mask_head.resolution
    every = first + rng.permutation(np.arange(rows) % (spec.num_classes or 1))
    each = at_once(rows, channels * m * m)
    for start in range(0, rows, each):
        classes = every[start : start + each].astype(np.int64)
        logits = rng.normal(0, 2, (len(classes), channels, m, m)).astype(np.float32)
        boxes = np.concatenate([_anywhere(spec, rng)] * (1 + len(classes) // 24))[: len(classes)].astype(np.float32)
        picked = logits[np.arange(len(classes)), classes if channels > 1 else 0][:, None]
        yield Probe("every class", {"logits": logits, "classes": classes, "boxes": boxes, "picked": picked})


def at_once(rows: int, size: int) -> int:
    """How many rows of so many numbers are fed in one probe."""
    return min(rows, max(1, _MOST // size))


def heatmap_probes(spec: DetectorSpec, rows: int) -> Iterator[Probe]:
    """Logits [D, K, S, S] that differ in every cell."""
    assert spec.keypoint_head is not None
    head = spec.keypoint_head
    shape = (rows, head.keypoints, head.resolution, head.resolution)
    yield Probe("every keypoint", {"logits": rng_of(7).normal(0, 2, shape).astype(np.float32)})

