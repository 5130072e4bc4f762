"""Are two sets of detections the same? The strict match that every comparison here reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.semantic import enlarged

_NEAR_IOU = 0.5  # what strictly misses is still paired above this, to say by how much it misses
_SAME_PX = 1e-2  # boxes without area have no IoU: they are the same when this close
_SLIVER_PX, _SAME_SLIVER_PX = 0.1, 1e-3


@dataclass(frozen=True)
class MatchReport:
    """How far `found` is from `reference`.

    reference, found   numbers of detections
    matched            detections of the reference that were found again strictly
    share              matched / reference (1.0 when both are empty)
    pairs              int64 [p, 2] indices (reference, found): the strict ones first, then those of
                       equal class and IoU > 0.5 that miss a limit
    box_px, score, mask, heatmap   worst differences over all pairs: corner coordinate in pixels, score,
                       a mask's mean absolute error, a heatmap's largest one (None when either side has none)
    semantic           largest difference of the semantic logits (None when either side has none)
    same_map           the semantic logits agree, or neither side has any
    exact              all matched, counts agree, the semantic logits agree, and masks and heatmaps are
                       on both sides or on neither
    """

    reference: int
    found: int
    matched: int
    share: float
    pairs: NDArray[np.int64]
    box_px: float
    score: float
    mask: float | None
    heatmap: float | None
    semantic: float | None
    same_map: bool
    exact: bool

    def to_json(self) -> dict[str, Any]:
        """The figures without the pairs, for a report."""
        return {k: v for k, v in vars(self).items() if k != "pairs"}

    def __str__(self) -> str:
        kinds = (("masks", self.mask), ("heatmaps", self.heatmap), ("semantic logits", self.semantic))
        maps = [f"{kind} {worst:.2g}" for kind, worst in kinds if worst is not None]
        if not self.reference and not self.found and self.semantic is not None:
            return f"semantic logits within {self.semantic:.2g}"
        return ", ".join([f"{self.matched} of {self.reference} found again ({self.found} in all): "
                          f"boxes within {self.box_px:.2g} px, scores {self.score:.2g}", *maps])  # fmt: skip


def match(
    reference: Detections,
    found: Detections,
    iou: float = 0.99,
    score: float = 1e-3,
    mask: float | None = 0.01,
    logits: float | None = 1e-3,
) -> MatchReport:
    """Pair the detections one to one; as many strict pairs as can be.

    A strict pair has the same class, IoU > `iou`, |score difference| < `score` and, where both
    sides have masks and `mask` is given, a mean absolute mask error < `mask`. Heatmaps and semantic
    logits may differ by `logits` of the reference's largest magnitude. Order is not compared, so
    equal scores may swap.
    """
    same_class = reference.classes[:, None] == found.classes[None]
    overlap = box_iou(reference.boxes, found.boxes)
    with np.errstate(invalid="ignore"):
        apart = np.abs(reference.scores[:, None] - found.scores[None])
        strict = same_class & (overlap > iou) & (apart < score)
    rows, columns = np.nonzero(strict)
    if mask is not None and _comparable(reference.masks, found.masks):
        strict[rows, columns] &= _mask_errors(reference, found, rows, columns) < mask
    if logits is not None and _comparable(reference.heatmaps, found.heatmaps):
        limit = logits * _magnitude(reference.heatmaps)
        strict[rows, columns] &= _heatmap_errors(reference, found, rows, columns) <= limit
    partner = _assign(strict, overlap)
    matched = int((partner >= 0).sum())
    near = same_class & (overlap > _NEAR_IOU)
    near[partner >= 0] = False
    near[:, partner[partner >= 0]] = False
    pairs = np.concatenate([_pairs(partner), _pairs(_greedy(near, overlap))])
    box_px, worst_score, worst_mask, worst_heatmap = _worst(reference, found, pairs)
    semantic, same_map = _semantic(reference.semantic, found.semantic, logits)
    counts = (len(reference), len(found))
    both = all((getattr(reference, m) is None) == (getattr(found, m) is None) for m in ("masks", "heatmaps"))
    return MatchReport(
        *counts,
        matched=matched,
        share=matched / counts[0] if counts[0] else float(counts[1] == 0),
        pairs=pairs,
        box_px=box_px,
        score=worst_score,
        mask=worst_mask,
        heatmap=worst_heatmap,
        semantic=semantic,
        same_map=same_map,
        exact=bool(matched == counts[0] == counts[1] and both and same_map),
    )


def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of boxes [n, 4] and [m, 4] (x1, y1, x2, y2) as float64 [n, m]; NaN never overlaps.

    Where a box has no area the IoU is 1 for a box in the same place (within 0.01 px), else 0. It is also 1 for slivers,
    boxes thinner than 0.1 px, that agree within 0.001 px: rounding decides what share of them overlaps.
    """
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        low = np.maximum(a64[:, None, :2], b64[None, :, :2])
        high = np.minimum(a64[:, None, 2:], b64[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=2)
        area_a = np.clip(a64[:, 2:] - a64[:, :2], 0, None).prod(axis=1)
        area_b = np.clip(b64[:, 2:] - b64[:, :2], 0, None).prod(axis=1)
        result = shared / (area_a[:, None] + area_b[None] - shared)
        flat_a, flat_b = np.nonzero((area_a[:, None] == 0) | (area_b[None] == 0))
        gap = np.abs(a64[flat_a] - b64[flat_b]).max(axis=1, initial=0)
        result[flat_a, flat_b] = gap < _SAME_PX
        thin_a, thin_b = (np.clip(box[:, 2:] - box[:, :2], 0, None).min(axis=1) < _SLIVER_PX for box in (a64, b64))
        rows, columns = np.nonzero(thin_a[:, None] & thin_b[None] & (result > 0))
        gap = np.abs(a64[rows] - b64[columns]).max(axis=1, initial=0)
        result[rows, columns] = np.where(gap < _SAME_SLIVER_PX, 1.0, result[rows, columns])
    return np.nan_to_num(result, nan=0.0)


def _assign(allowed: NDArray[np.bool_], overlap: NDArray[np.float64]) -> NDArray[np.int64]:
    """Partner of each row (-1: none), as many as possible: greedy by overlap, then augmented."""
    partner = _greedy(allowed, overlap)
    owner = np.full(allowed.shape[1], -1, np.int64)
    owner[partner[partner >= 0]] = np.nonzero(partner >= 0)[0]
    for row in np.nonzero((partner < 0) & allowed.any(axis=1))[0]:
        _augment(int(row), allowed, partner, owner)
    return partner


def _greedy(allowed: NDArray[np.bool_], overlap: NDArray[np.float64]) -> NDArray[np.int64]:
    rows, columns = np.nonzero(allowed)
    partner = np.full(allowed.shape[0], -1, np.int64)
    taken = np.zeros(allowed.shape[1], bool)
    for k in np.argsort(-overlap[rows, columns], kind="stable"):
        row, column = rows[k], columns[k]
        if partner[row] < 0 and not taken[column]:
            partner[row], taken[column] = column, True
    return partner


def _augment(start: int, allowed: NDArray[np.bool_], partner: NDArray[np.int64], owner: NDArray[np.int64]) -> None:
    """Give row `start` a column along an augmenting path (breadth first), if there is one."""
    came_from: dict[int, int] = {}
    queue = [start]
    for row in queue:
        for column in map(int, np.nonzero(allowed[row])[0]):
            if column in came_from:
                continue
            came_from[column] = row
            if owner[column] >= 0:
                queue.append(int(owner[column]))
                continue
            while column >= 0:
                previous = came_from[column]
                freed = int(partner[previous])
                partner[previous], owner[column] = column, previous
                column = freed
            return


def _pairs(partner: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = np.nonzero(partner >= 0)[0]
    return np.stack([rows, partner[rows]], axis=1)


def _comparable(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None) -> bool:
    return a is not None and b is not None and a.shape[1:] == b.shape[1:]


def _mask_errors(a: Detections, b: Detections, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    if a.masks is None or b.masks is None:
        raise ValueError("both sides need masks")
    return np.abs(a.masks[rows] - b.masks[columns]).mean(axis=(1, 2))


def _heatmap_errors(a: Detections, b: Detections, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    if a.heatmaps is None or b.heatmaps is None:
        raise ValueError("both sides need heatmaps")
    pairs = zip(rows, columns, strict=True)  # one at a time: a hundred detections' heatmaps are 20 MB
    return np.array([np.abs(a.heatmaps[i] - b.heatmaps[j]).max(initial=0) for i, j in pairs], np.float32)


def _magnitude(logits: NDArray[np.float32] | None) -> float:
    return 0.0 if logits is None else float(np.abs(logits).max(initial=0))


def _semantic(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None, limit: float | None) -> tuple[float | None, bool]:
    """The largest difference, and whether it is within the limit; the coarser map is enlarged first."""
    if a is None or b is None:
        return None, a is None and b is None
    factor, rest = divmod(max(a.shape[1], b.shape[1]), min(a.shape[1], b.shape[1]))
    if factor > 1 and not rest:
        a, b = (enlarged(m, factor) if m.shape[1] < other.shape[1] else m for m, other in ((a, b), (b, a)))
    if a.shape != b.shape:
        return None, False
    worst = float(np.abs(a - b).max(initial=0))
    return worst, limit is None or worst <= limit * _magnitude(a)


def _worst(a: Detections, b: Detections, pairs: NDArray[np.int64]) -> tuple[float, float, float | None, float | None]:
    rows, columns = pairs.T
    boxes = np.abs(a.boxes[rows] - b.boxes[columns]).max(initial=0)
    scores = np.abs(a.scores[rows] - b.scores[columns]).max(initial=0)
    mask = heatmap = None
    if _comparable(a.masks, b.masks):
        mask = float(_mask_errors(a, b, rows, columns).max(initial=0))
    if _comparable(a.heatmaps, b.heatmaps):
        heatmap = float(_heatmap_errors(a, b, rows, columns).max(initial=0))
    return float(boxes), float(scores), mask, heatmap
