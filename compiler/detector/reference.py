"""What detectron2's heads make of their predictions, in NumPy and float64: the formulas that a graph is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxgraft.detector.geometry import decode, decode_linear, grid_anchors
from onnxgraft.detector.spec import RPN, BoxCoder, BoxHead, DenseHead, Pooler

_BLOCK = 64  # boxes that are compared with all others at once


@dataclass(frozen=True)
class Found:
    """Boxes float64 [n, 4] x1 y1 x2 y2 in pixels, scores [n], classes int64 [n], and which input row each comes from."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    origin: np.ndarray  # int64 [n]

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self, index: np.ndarray) -> Found:
        """Those that a mask bool [n] or indices int64 [k] pick."""
        return Found(self.boxes[index], self.scores[index], self.classes[index], self.origin[index])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Of each element, float64 in any shape [...]; 0 where float32 underflows."""
    return _underflow(1.0 / (1.0 + np.exp(-logits.astype(np.float64))))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis of [..., classes], float64; 0 where float32 underflows."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return _underflow(powers / powers.sum(-1, keepdims=True))


def _underflow(scores: np.ndarray) -> np.ndarray:
    return np.where(scores < np.finfo(np.float32).smallest_subnormal, 0.0, scores)


def clip(boxes: np.ndarray, image: tuple[int, int]) -> np.ndarray:
    """Boxes.clip (detectron2 structures/boxes.py): boxes [n, 4] in pixels, within an image of (height, width)."""
    height, width = image
    return np.clip(boxes, 0, [width, height, width, height])


def sides(boxes: np.ndarray) -> np.ndarray:
    """The shorter side of each box, [n]."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).min(1))


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU [n, m]; 0 of boxes without area."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = (np.asarray(b, np.float64).T for b in (boxes, others))
    width = np.minimum(x2[:, None], u2[None]) - np.maximum(x1[:, None], u1[None])
    height = np.minimum(y2[:, None], v2[None]) - np.maximum(y1[:, None], v1[None])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area, other = np.maximum((x2 - x1) * (y2 - y1), 0), np.maximum((u2 - u1) * (v2 - v1), 0)
    return np.asarray(shared / np.maximum(area[:, None] + other[None] - shared, 1e-12))


def suppress(found: Found, threshold: float) -> Found:
    """Greedy suppression within each class (torchvision.ops.batched_nms): what is left, surest first."""
    order = np.argsort(-found.scores, kind="stable")
    kept: list[int] = []
    for group in np.unique(found.classes):
        waiting = order[found.classes[order] == group]
        while len(waiting):
            block, rest = waiting[:_BLOCK], waiting[_BLOCK:]
            beyond = overlaps(found.boxes[block], found.boxes[waiting]) > threshold
            alive = np.ones(len(block), bool)
            for row in range(len(block)):
                if alive[row]:
                    alive[row + 1 :] &= ~beyond[row, row + 1 : len(block)]
            kept += block[alive].tolist()
            waiting = rest[~beyond[alive, len(block) :].any(0)]
    index = np.array(kept, np.int64)
    return found.rows(index[np.argsort(-found.scores[index], kind="stable")])


def by_location(planes: np.ndarray, size: int) -> np.ndarray:
    """permute_to_N_HWA_K (detectron2 meta_arch/dense_detector.py) of one image: [1, A*K, H, W] -> [H*W*A, K]."""
    _, _, height, width = planes.shape
    return planes.reshape(-1, size, height, width).transpose(2, 3, 0, 1).reshape(-1, size)


def rows_of(planes: np.ndarray, size: int, rows: np.ndarray) -> np.ndarray:
    """Rows int64 [k] of `by_location`: [k, K]."""
    _, channels, height, width = planes.shape
    cell, anchor = np.divmod(rows, channels // size)
    return np.asarray(planes.reshape(-1, size, height * width)[anchor, :, cell])


def surest(scores: np.ndarray, most: int) -> np.ndarray:
    """Indices int64 [k] of the `most` highest scores [n], the highest first, ties by their index."""
    index = np.arange(len(scores))
    if 0 < most < len(scores):
        index = np.nonzero(scores >= np.partition(scores, len(scores) - most)[len(scores) - most])[0]
    return index[np.argsort(-scores[index], kind="stable")][:most]


def proposal_candidates(
    rpn: RPN, logits: Sequence[np.ndarray], deltas: Sequence[np.ndarray], image: tuple[int, int]
) -> Found:
    """find_top_rpn_proposals (detectron2 proposal_utils.py) up to the suppression; the class is the level's number.

    Args:
        logits: [1, A, H, W] of each level, finest first.
        deltas: [1, 4A, H, W] of each level.
    """
    boxes, scores, levels, rows, before = [], [], [], [], 0
    for number, level in enumerate(rpn.levels):
        flat = by_location(logits[number], 1)[:, 0]
        best = surest(flat, level.topk)
        boxes.append(clip(decode(grid_anchors(level, best), rows_of(deltas[number], 4, best), rpn.coder), image))
        scores.append(sigmoid(flat[best]) if rpn.probabilities else flat[best])
        levels.append(np.full(len(best), number))
        rows.append(before + best)
        before += len(flat)
    found = Found(*(np.concatenate(parts) for parts in (boxes, scores, levels, rows)))
    kept = sides(found.boxes) > rpn.min_box_size
    return found.rows(np.nonzero(kept & (found.scores >= rpn.score_threshold) if rpn.probabilities else kept)[0])


def class_scores(logits: Sequence[np.ndarray], head: BoxHead) -> np.ndarray:
    """[R, C]: the mean of the stages' scores (CascadeROIHeads), without the column of the background."""
    activate = softmax if head.activation == "softmax" else sigmoid
    return np.asarray(np.mean([activate(stage) for stage in logits], 0)[:, head.foreground])


def stage_boxes(
    proposals: np.ndarray, deltas: Sequence[np.ndarray], coders: Sequence[BoxCoder], image: tuple[int, int]
) -> list[np.ndarray]:
    """The boxes [R, 4] that each stage but the first pools: decoded by the stage before it and clipped."""
    found: list[np.ndarray] = []
    for offsets, coder in zip(deltas, coders, strict=True):
        proposals = clip(decode(proposals, offsets, coder), image)
        found.append(proposals)
    return found


def box_candidates(
    proposals: np.ndarray, deltas: np.ndarray, scores: np.ndarray, head: BoxHead, image: tuple[int, int]
) -> Found:
    """All classes of all proposals, decoded and clipped: FastRCNNOutputLayers.inference before its threshold, without boxes
    that are too small where the head drops them (torchvision's RoIHeads.postprocess_detections).

    Args:
        proposals: [R, 4].
        deltas: [R, 4] for each of the head's boxes.
        scores: [R, C].
    """
    rows, classes = scores.shape
    of_classes = np.split(deltas, head.box_groups, 1)[0 if head.class_agnostic else head.first_class :]
    boxes = np.stack([decode(proposals, part, head.coder) for part in of_classes], 1)
    boxes = np.broadcast_to(clip(boxes.reshape(-1, 4), image).reshape(rows, -1, 4), (rows, classes, 4))
    found = Found(boxes.reshape(-1, 4), scores.reshape(-1), np.tile(np.arange(classes), rows), np.arange(rows * classes))
    return found if head.min_box_size is None else found.rows(np.nonzero(sides(found.boxes) > head.min_box_size)[0])


def dense_candidates(
    head: DenseHead, maps: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]], image: tuple[int, int]
) -> Found:
    """What RetinaNet and FCOS (detectron2 meta_arch/retinanet.py, fcos.py) and SSD (torchvision models/detection/ssd.py) give
    to their suppression, clipped where the head clips first.

    Args:
        maps: class logits [1, AK, H, W], deltas [1, 4A, H, W] and centerness [1, A, H, W] of each level, finest first.

    Returns:
        the candidates, whose origin counts through the flat logits of all levels.
    """
    if head.class_topk is not None:
        return _class_candidates(head, head.class_topk, maps, image)
    boxes, scores, classes, rows, before = [], [], [], [], 0
    for level, (logits, deltas, centerness) in zip(head.levels, maps, strict=True):
        probability = sigmoid(by_location(logits, head.num_classes))
        if centerness is not None:
            probability = np.sqrt(probability * sigmoid(by_location(centerness, 1)))
        flat = probability.reshape(-1)
        above = np.nonzero(flat > head.score_threshold)[0]
        best = above[np.argsort(-flat[above], kind="stable")[: level.topk]]
        anchors, label = best // head.num_classes, best % head.num_classes
        reference, offsets = grid_anchors(level, anchors), rows_of(deltas, 4, anchors)
        made = decode_linear(reference, offsets) if head.coder is None else decode(reference, offsets, head.coder)
        boxes.append(clip(made, image) if head.clipped_first else made)
        scores.append(flat[best])
        classes.append(label)
        rows.append(before + best)
        before += len(flat)
    return Found(*(np.concatenate(parts) for parts in (boxes, scores, classes, rows)))


def _class_candidates(
    head: DenseHead, most: int, maps: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]], image: tuple[int, int]
) -> Found:
    """SSD.postprocess_detections (torchvision models/detection/ssd.py) up to the suppression: class by class."""
    probability = np.concatenate([softmax(by_location(logits, head.columns)) for logits, _, _ in maps])
    anchors = np.concatenate([grid_anchors(level) for level in head.levels])
    offsets = np.concatenate([by_location(deltas, 4) for _, deltas, _ in maps])
    assert head.coder is not None
    made = clip(decode(anchors, offsets, head.coder), image)
    boxes, scores, classes, rows = [], [], [], []
    for label in range(head.num_classes):
        own = probability[:, head.first_class + label]
        above = np.nonzero(own > head.score_threshold)[0]
        best = above[np.argsort(-own[above], kind="stable")[:most]]
        boxes.append(made[best])
        scores.append(own[best])
        classes.append(np.full(len(best), label))
        rows.append(best * head.columns + head.first_class + label)
    return Found(*(np.concatenate(parts) for parts in (boxes, scores, classes, rows)))


def levels_of(boxes: np.ndarray, pooler: Pooler) -> np.ndarray:
    """assign_boxes_to_levels (detectron2 poolers.py; LevelMapper of torchvision's ops/poolers.py, whose epsilon is behind the
    logarithm) before rounding down, float64 [n], in levels above the finest map."""
    side = np.sqrt(np.prod(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 1))
    level = pooler.canonical_level + np.log2(side / pooler.canonical_size + pooler.epsilon) + pooler.level_shift
    return np.asarray(level - pooler.min_level)
