"""Inputs of a detector's parts that reach their corners: seeded, and without ties that rounding would decide."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from onnxgraft.detector.reference import Found, overlaps
from onnxgraft.detector.spec import DenseLevel, RPNLevel

Array = np.ndarray
_IOU_MARGIN = 4e-3  # what the offsets between classes cost a suppression in float32
_SCORE_MARGIN = 4e-6
_OWN = 8192  # rows with deltas of their own: on other anchors the same ones make other boxes
_TILE = 10_007  # a prime, so that rows of a map do not repeat each other
OUT = -400.0  # a shift of so many box sizes leaves any image
SILENT = -200.0  # a logit whose float32 sigmoid and softmax are 0: not above a threshold of 0 either


def noise_map(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """float32 of a map's shape: noise, drawn once and repeated out of step with its rows."""
    return np.resize(rng.normal(0, 1, _TILE).astype(np.float32), tuple(shape))


def exact_logits(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """float32 of a grid's shape whose interpolation to twice its size float32 holds exactly, so that all choose alike."""
    return (rng.integers(-(2**15), 2**15, tuple(shape)) * 2.0**-12).astype(np.float32)


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def boxes(rng: np.random.Generator, rows: int, image: tuple[int, int]) -> Array:
    """float32 [rows, 4] in the image, in threes that overlap one another."""
    height, width = image
    groups = -(-rows // 3)
    side = np.exp(rng.uniform(np.log(6), np.log(min(image) / 2), (groups, 2)))
    centre = rng.uniform(0, 1, (groups, 2)) * [width, height]
    side, centre = np.repeat(side, 3, 0)[:rows], np.repeat(centre, 3, 0)[:rows]
    centre = centre + rng.normal(0, 0.07, (rows, 2)) * side
    corners = np.concatenate([centre - side / 2, centre + side / 2], 1)
    return np.clip(corners, 0, [width, height, width, height]).astype(np.float32)


def box_deltas(rng: np.random.Generator, rows: int, per_row: int, weights: Sequence[float]) -> Array:
    """float32 [rows, 4 * per_row]: small ones, some beyond the clamp, some that leave the image to each side; repeated."""
    own = min(rows, _OWN)
    small = rng.normal(0, 1, (own, 1, 4)) * [0.05, 0.05, 0.1, 0.1] + rng.normal(0, 0.01, (own, per_row, 4))
    kind = (np.arange(own) + 13) % 16  # a level of a few cells has the extreme ones
    small[kind == 13, :, 2:] = 5.0
    small[kind == 14, :, 0] = OUT * np.sign(small[kind == 14, :, 0])
    small[kind == 15, :, 1] = OUT * np.sign(small[kind == 15, :, 1])
    drawn = (small * np.array(weights)).reshape(own, 4 * per_row).astype(np.float32)
    return np.resize(drawn, (rows, 4 * per_row))


def class_logits(rng: np.random.Generator, says: Array, classes: int) -> Array:
    """float32 [rows, classes + 1]: rows for which `says` [rows] holds name up to six classes, the others none."""
    logits = rng.normal(SILENT, 1, (len(says), classes + 1))
    logits[:, -1] = 4
    for row in np.nonzero(says)[0]:
        said = rng.permutation(classes)[: min(6, classes)]
        logits[row, said] = rng.normal(2, 2, len(said))
        logits[row, -1] = rng.normal(1, 2)
    return logits.astype(np.float32)


class LevelMaps:
    """Predictions of several levels as flat rows, which a probe can change, and as the maps that the graph reads.

    Attributes:
        logits: float32 [rows * classes] of each level.
        deltas: float32 [rows, 4] of each level.
        centerness: float32 [rows] of each level.
    """

    def __init__(self, levels: Sequence[RPNLevel | DenseLevel], classes: int) -> None:
        self.levels, self.classes = levels, classes
        self.rows = [level.height * level.width * level.anchors for level in levels]
        self.logits = [np.full(n * classes, SILENT, np.float32) for n in self.rows]
        self.deltas = [np.zeros((n, 4), np.float32) for n in self.rows]
        self.centerness = [np.zeros(n, np.float32) for n in self.rows]

    def planes(self, index: int, flat: Array, size: int) -> Array:
        """[1, A * size, H, W] of a level's flat rows, as permute_to_N_HWA_K reads them."""
        level = self.levels[index]
        shaped = flat.reshape(level.height, level.width, level.anchors * size)
        return np.ascontiguousarray(shaped.transpose(2, 0, 1)[None])

    def maps(self) -> list[tuple[Array, Array, Array]]:
        """(logits [1, A * classes, H, W], deltas [1, A * 4, H, W], centerness [1, A, H, W]) float32 of each level."""
        centerness = [self.planes(i, flat, 1) for i, flat in enumerate(self.centerness)]
        return list(zip(self.logit_maps(), self.delta_maps(), centerness, strict=True))

    def logit_maps(self) -> list[Array]:
        """[1, A * classes, H, W] float32 of each level."""
        return [self.planes(i, flat, self.classes) for i, flat in enumerate(self.logits)]

    def delta_maps(self) -> list[Array]:
        """[1, A * 4, H, W] float32 of each level."""
        return [self.planes(i, flat, 4) for i, flat in enumerate(self.deltas)]

    def where(self, origin: Array) -> list[Array]:
        """Positions int64 [k] in `logits` of each level, of candidates [n] by their number over all levels."""
        bounds = np.cumsum([0, *(len(flat) for flat in self.logits)])
        return [origin[(origin >= a) & (origin < b)] - a for a, b in itertools.pairwise(bounds)]

    def shrink(self, origin: Array) -> None:
        """Let candidates (int64 [n], their numbers over all levels) leave the image: clipped, nothing is left of them."""
        for index, rows in enumerate(self.where(origin)):
            self.deltas[index][rows // self.classes, 0] = OUT * 10

    def silence(self, origin: Array) -> None:
        """Give candidates (int64 [n], their numbers over all levels) the lowest logit."""
        for index, rows in enumerate(self.where(origin)):
            self.logits[index][rows] = SILENT


def doubtful(found: Found, iou: float, least: float | None) -> Array:
    """Rows, int64 [k], whose fate float32 decides: near the IoU threshold of another, near the score threshold, or in a tie.

    Args:
        least: the score threshold; None where there is none.
    """
    doubts = np.zeros(len(found), bool)
    if least is not None:
        doubts |= np.abs(found.scores - least) < _SCORE_MARGIN
    for group in np.unique(found.classes):
        rows = np.nonzero(found.classes == group)[0]
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        for start in range(0, len(rows), 256):
            part, later = rows[start : start + 256], rows[start:]
            shared = overlaps(found.boxes[part], found.boxes[later])
            gap = found.scores[part][:, None] - found.scores[later][None]
            near = (np.abs(shared - iou) < _IOU_MARGIN) | ((shared > iou) & (gap < _SCORE_MARGIN))
            doubts[later[np.triu(near, 1).any(0)]] = True
    return np.nonzero(doubts)[0]


def settle(
    candidates: Callable[[], Found], give_up: Callable[[Array], None], iou: float, least: float | None
) -> Found:
    """Take doubtful candidates out of a probe until none is left; `give_up` gets their `origin`, int64 [k].

    Returns:
        the candidates then.
    """
    for _ in range(12):
        found = candidates()
        doubts = doubtful(found, iou, least)
        if not len(doubts):
            break
        give_up(found.origin[doubts])
    return found
