"""Sets of scored boxes that reach the corners of a suppression, with nothing in them that rounding decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
_MARGIN = 1e-3  # how near to a threshold an IoU may not come
_LEAST_SIDE = 0.05  # pixels; thinner boxes are exactly empty, or not there


@dataclass(frozen=True)
class Scene:
    """Candidates of one image.

    name: what it reaches. boxes: float64 [n, 4], pixels, not clipped. kinds: int64 [n], the class, or of proposals the
    level. scores: float64 [n] in 0..1, all different where two could meet.
    """

    name: str
    boxes: Boxes
    kinds: NDArray[np.int64]
    scores: NDArray[np.float64]

    def of(self, keep: NDArray[np.generic]) -> Scene:
        return replace(self, boxes=self.boxes[keep], kinds=self.kinds[keep], scores=self.scores[keep])

    def named(self, name: str) -> Scene:
        return replace(self, name=name)


@dataclass(frozen=True)
class Stage:
    """Where scenes play: the canvas in pixels, how many kinds there are, and the numbers that decide.

    threshold: of scores; iou: of suppression; cap: rows that are kept; per_kind: candidates that one kind may have;
    clipped: whether boxes are clipped before suppression.
    """

    height: int
    width: int
    kinds: int
    threshold: float
    iou: float
    cap: int
    per_kind: int
    clipped: bool = True

    def scenes(self, rng: np.random.Generator) -> Iterator[Scene]:
        """All scenes, each without pairs whose overlap rounding could put on either side of the threshold."""
        makers: tuple[Callable[[np.random.Generator], Scene], ...] = (
            self.crowd, self.groups, self.edges, self.full, self.one_kind, self.threshold_met, self.nothing,
        )  # fmt: skip
        for make in makers:
            yield self.settled(make(rng))

    def crowd(self, rng: np.random.Generator) -> Scene:
        """Boxes of all sizes and kinds, some partly or wholly outside, scores from 0 to 1."""
        n = 160
        side = np.exp(rng.uniform(np.log(4), np.log(max(self.height, self.width)), (n, 2)))
        centre = rng.uniform(-0.05, 1.05, (n, 2)) * (self.width, self.height)
        boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
        return Scene("a crowd", boxes, rng.integers(0, self.kinds, n), _distinct(rng, n))

    def groups(self, rng: np.random.Generator) -> Scene:
        """Chains of suppression, overlaps just under and over the threshold, one box twice, one box in two kinds."""
        pitch = min(self.height, self.width) / 4
        side = 0.6 * pitch
        xs, ys = (np.arange(0, extent - pitch + 1, pitch) for extent in (self.width, self.height))
        cells = [(x, y) for y in ys for x in xs]
        boxes: list[tuple[float, float, float, float]] = []
        kinds: list[int] = []
        for number, (x, y) in enumerate(cells):
            steps, same = _GROUPS[number % len(_GROUPS)](self.iou)
            for index, step in enumerate(steps):
                left = x + 0.37 + step * side
                boxes.append((left, y + 0.61, left + side, y + 0.61 + side))
                kinds.append((number + (0 if same else index)) % self.kinds)
        return Scene("groups", np.array(boxes), np.array(kinds), _distinct(rng, len(boxes), 0.3))

    def edges(self, rng: np.random.Generator) -> Scene:
        """Boxes without area, of a pixel, thin, long, at the far edges, as large as the canvas, outside."""
        h, w = float(self.height), float(self.width)
        boxes = np.array([
            (10, 10, 10, 40), (20, 60, 50, 60), (30.2, 30.1, 31.3, 31.2), (40, 50, 40.3, 90), (60, 70, 120, 70.4),
            (0, h - 3.3, w, h), (w - 2.7, 0, w, h), (w - 9, h - 9, w + 9, h + 9), (-20, -20, 8.5, 8.5), (0, 0, w, h),
            (-w, -h, 2 * w, 2 * h), (w + 5, 20, w + 50, 60), (20, h + 5, 60, h + 50), (-60, 20, -5, 60), (w, h, w, h),
            (0, 100.5, w, 109), (100.5, 0, 108, h), (w - 40, h - 30, w, h), (0, 0, 1, 1), (w - 1, h - 1, w, h),
        ], np.float64)  # fmt: skip
        repeated = np.concatenate([boxes] * min(2, self.kinds))
        kinds = np.repeat(np.arange(min(2, self.kinds)), len(boxes)) * max(1, self.kinds - 1)
        return Scene("edges", repeated, kinds, _distinct(rng, len(repeated), 0.3))

    def full(self, rng: np.random.Generator) -> Scene:
        """More candidates of every kind than it may have, and more rows than are kept."""
        n = int(max(1.3 * self.cap, min(1.2 * self.per_kind * self.kinds, 1500 * self.kinds, 6000)))
        side = rng.uniform(2, 9, (n, 2))
        corner = rng.uniform(0, 1, (n, 2)) * (self.width - 10.0, self.height - 10.0)
        scores = _distinct(rng, n, max(0.2, self.threshold + 0.01) if self.threshold < 0.9 else self.threshold)
        return Scene("more than are kept", np.concatenate([corner, corner + side], axis=1), np.arange(n) % self.kinds, scores)

    def one_kind(self, rng: np.random.Generator) -> Scene:
        """Candidates of the last kind alone."""
        scene = self.crowd(rng)
        return replace(scene, name="one class only", kinds=np.full(len(scene.kinds), self.kinds - 1))

    def threshold_met(self, rng: np.random.Generator) -> Scene:
        """Scores on both sides of the threshold and at it, boxes apart."""
        at = np.float32(self.threshold)
        down, up = np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(1))
        wanted = np.array([at, down, up, at * 0.999, at * 1.001, at * 0.9, at * 1.1, at], np.float64)
        if not at:  # what lies just above 0 no activation gives
            wanted[[2, 4, 6]] = 1e-6, 1e-5, 1e-4
        x = 5.3 + 30 * np.arange(len(wanted)) % (self.width - 30)
        y = 4.7 + 30 * ((30 * np.arange(len(wanted))) // (self.width - 30))
        boxes = np.stack([x, y, x + 20, y + 20], axis=1)
        return Scene("scores at the threshold", boxes, np.arange(len(wanted)) % self.kinds, wanted)

    def nothing(self, rng: np.random.Generator) -> Scene:
        """Nothing to keep."""
        return replace(self.crowd(rng), name="none above the threshold").of(np.zeros(0, np.int64))

    def settled(self, scene: Scene) -> Scene:
        """Without boxes that are nearly empty, and of each pair of a kind that overlaps nearly as much as the threshold
        the one with the lower score. Class offsets make coordinates large, and overlaps uncertain with them."""
        clipped = self.clip(scene.boxes) if self.clipped else scene.boxes
        sides = clipped[:, 2:] - clipped[:, :2]
        keep = np.array(~((sides > 0) & (sides < _LEAST_SIDE)).any(axis=1))
        grain = float(np.spacing(np.float32(self.kinds * (max(self.height, self.width) + 1))))
        least = np.maximum(sides.min(axis=1), 1e-6)
        for kind in np.unique(scene.kinds):
            rows = np.nonzero((scene.kinds == kind) & keep)[0]
            rows = rows[np.argsort(-scene.scores[rows], kind="stable")]
            margin = _MARGIN + 4 * grain / np.minimum(least[rows][:, None], least[rows][None])
            overlap = iou(clipped[rows], clipped[rows])
            near = (np.abs(overlap - self.iou) < margin) & (overlap > 0)
            keep[rows[np.triu(near, 1).any(axis=0)]] = False
        return scene.of(keep)

    def clip(self, boxes: Boxes) -> Boxes:
        """Boxes.clip."""
        return np.clip(boxes, 0.0, np.array([self.width, self.height] * 2, np.float64))


def _at(iou_wanted: float) -> float:
    """How far, in sides, a square of the same size lies when they overlap by an IoU."""
    return (1 - iou_wanted) / (1 + iou_wanted)


_GROUPS: tuple[Callable[[float], tuple[list[float], bool]], ...] = (
    lambda t: ([0.0, _at(min(t + 0.02, 0.995))], True),
    lambda t: ([0.0, _at(max(t - 0.02, 0.005))], True),
    lambda t: ([0.0, 0.0], False),
    lambda t: ([i * _at(min(t + 0.08, 0.99)) for i in range(4)], True),
    lambda t: ([0.0, 0.0], True),
    lambda t: ([i * _at(min(t + 0.15, 0.98)) for i in range(3)], False),
)


def _distinct(rng: np.random.Generator, n: int, least: float = 0.0) -> NDArray[np.float64]:
    """n different scores between `least` and 1, in random order."""
    scores: NDArray[np.float64] = rng.permutation(np.linspace(least + 0.003, 0.997, n))
    return scores


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """IoU of boxes [n, 4] and [m, 4] as [n, m]; 0 where a box has no area."""
    ax1, ay1, ax2, ay2 = (column[:, None] for column in a.T)
    bx1, by1, bx2, by2 = (column[None] for column in b.T)
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
