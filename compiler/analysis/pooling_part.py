"""The pooling of boxes, held against detectron2's formula on maps that say where they were read (see measure.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgraft.analysis import probes
from onnxgraft.analysis.evidence import Evidence
from onnxgraft.analysis.measure import Probe, hold
from onnxgraft.detector import reference
from onnxgraft.detector.spec import Pooler
from onnxgraft.ir.graph import Graph

Size = tuple[int, int]
_BOXES = 64
_STRIP = 512  # pixels: a box of the coarsest level has this side, and two strips are less than a large picture


def hold_pooler(graph: Graph, pooler: Pooler, image: Size, evidence: Evidence | None = None) -> None:
    """Hold where a pooler reads: from which level, from which place, in which order.

    Maps that say their level, their column and their row are pooled: a mean of samples around a bin's centre is the
    centre's own column and row.

    Raises:
        Refusal: it reads elsewhere than detectron2's ROIPooler.
    """
    height, width = image
    strip = min(_STRIP, height, width)
    shapes = [image] if strip == max(image) else [(strip, width), (height, strip)]
    made = (_probe(pooler, shape) for shape in shapes)
    hold(graph, [graph.tensor(pooler.pooled_tensor)], made, "the pooled features", evidence)


def _probe(pooler: Pooler, image: Size) -> Probe:
    rng = probes.random(10)
    boxes, levels = _pooled_boxes(rng, pooler, image)
    feeds = {pooler.boxes_tensor: boxes}
    for level, (name, scale) in enumerate(zip(pooler.feature_tensors, pooler.scales, strict=True)):
        height, width = (int(np.ceil(side * scale)) + 2 for side in image)
        planes = [np.full((height, width), 1000.0 * (level + 1)), *np.indices((height, width))[::-1]]
        feeds[name] = np.empty((1, pooler.channels, height, width), np.float32)
        for number, plane in enumerate(planes):
            feeds[name][:, number::3] = plane
    expected = _centres(boxes, levels, pooler).astype(np.float32)

    def compare(results: Sequence[np.ndarray]) -> str | None:
        found = results[0]
        size = pooler.resolution
        if found.shape != (len(boxes), pooler.channels, size, size):
            return f"features of shape {list(found.shape)}"
        apart = [np.abs(found[:, n::3] - expected[:, n, None]).max((1, 2, 3)) for n in range(min(3, pooler.channels))]
        error = np.max(apart, 0)
        if error.max() < 0.02:
            return None
        return f"the box {boxes[error.argmax()].tolist()} is pooled from elsewhere"

    return feeds, compare


def _pooled_boxes(rng: np.random.Generator, pooler: Pooler, image: Size) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] inside the image, thin and square ones of all sizes, none near a border of levels, and their levels."""
    height, width = image
    finest = 1 / pooler.scales[0]
    side = np.exp(rng.uniform(np.log(2 * finest), np.log([width, height]), (_BOXES, 2)))
    side = np.minimum(side, [width - 4 * finest, height - 4 * finest])
    low = rng.uniform(0, 1, (_BOXES, 2)) * ([width, height] - side - 2 * finest) + finest
    boxes = np.concatenate([low, low + side], 1).astype(np.float32)
    levels = np.zeros(_BOXES)
    if len(pooler.scales) > 1:
        levels = reference.levels_of(boxes, pooler)
        sure = np.abs(levels - np.round(levels)) > 1e-3
        boxes, levels = boxes[sure], np.clip(np.floor(levels[sure]), 0, pooler.last_level)
    scale = np.array(pooler.scales)[levels.astype(int)]
    inside = ((boxes[:, :2] * scale[:, None] > 0.6) & (boxes[:, 2:] - boxes[:, :2] > 1.1 / scale[:, None])).all(1)
    return boxes[inside], levels[inside].astype(int)


def _centres(boxes: np.ndarray, levels: np.ndarray, pooler: Pooler) -> np.ndarray:
    """[n, 3, P, P]: 1000 times the level's number from 1, column and row of each bin's centre, in cells."""
    scale = np.array(pooler.scales)[levels][:, None]
    start = boxes[:, :2] * scale - (0.5 if pooler.aligned else 0.0)
    step = (boxes[:, 2:] - boxes[:, :2]) * scale / pooler.resolution
    centre = start[:, :, None] + (np.arange(pooler.resolution) + 0.5) * step[:, :, None]  # [n, 2, P]
    size = pooler.resolution
    column, row = np.broadcast_to(centre[:, 0, None, :], (len(boxes), size, size)), np.repeat(centre[:, 1], size, 1)
    number = np.broadcast_to(1000.0 * (levels[:, None, None] + 1), column.shape)
    return np.stack([number, column, row.reshape(-1, size, size)], 1)
