"""Inputs of each part, made from what was recognised: scenes of boxes put where the part reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxgraft.detector.geometry import decode, grid_anchors
from onnxgraft.detector.spec import RPN, BoxCoder, BoxHead, DenseHead, DenseLevel, DetectorSpec, RPNLevel
from onnxgraft.proof.scenes import Boxes, Scene, Stage

SEED = 20_261_127
_FAR = 1e4  # a delta that moves a box off every canvas
_LOW = -40.0  # below every logit that counts
_SURE = 1 - 1e-7  # above a threshold near 1, what lies a little higher is no probability any more
_SILENT = -200.0  # its float32 sigmoid is 0


@dataclass(frozen=True)
class Probe:
    """One image's tensors for a part, by role, as the file holds them: maps [1, C, H, W], rows [R, ...]."""

    name: str
    feeds: Mapping[str, NDArray[np.generic]]


def rng_of(part: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(SEED + part))


def proposal_probes(spec: DetectorSpec, rpn: RPN) -> Iterator[Probe]:
    """Objectness and deltas of every level: roles logits0, deltas0, ..."""
    rng, levels = rng_of(1), rpn.levels
    anchors = [grid_anchors(level).astype(np.float64) for level in levels]
    stage = Stage(spec.image.height, spec.image.width, len(levels), 0.0, rpn.nms_threshold, rpn.post_nms_topk,
                  max(level.topk for level in levels))  # fmt: skip
    for scene in (*stage.scenes(rng), _clamped(stage, anchors, rpn.coder, rng)):
        feeds: dict[str, NDArray[np.generic]] = {}
        for index, (level, around) in enumerate(zip(levels, anchors, strict=True)):
            own = scene.of(np.nonzero(scene.kinds == index)[0][: len(around)])
            chosen = rng.choice(len(around), len(own.kinds), replace=False)
            logits = np.linspace(_LOW, 2 * _LOW, len(around), dtype=np.float32)
            deltas = np.zeros((len(around), 4), np.float32)
            deltas[:, 0] = _FAR
            logits[chosen] = (own.scores - 0.5) * 16
            deltas[chosen] = encode(around[chosen], own.boxes, rpn.coder)
            feeds[f"logits{index}"] = to_map(logits[:, None], level)
            feeds[f"deltas{index}"] = to_map(deltas, level)
        yield Probe(scene.name, feeds)


def _clamped(stage: Stage, anchors: Sequence[Boxes], coder: BoxCoder, rng: np.random.Generator) -> Scene:
    """Deltas at the clamp of dw and dh, beyond it, and far below it."""
    boxes, kinds = [], []
    for kind, around in enumerate(anchors):
        chosen = around[rng.integers(0, len(around), 16)]
        boxes.append(decode(chosen, clamp_deltas(rng, coder, chosen, stage), coder))
        kinds += [kind] * len(chosen)
    stacked = np.concatenate(boxes)
    scores = rng.permutation(np.linspace(0.3, 0.99, len(stacked)))
    return stage.settled(Scene("beyond the clamp", stacked, np.array(kinds), scores))


def clamp_deltas(rng: np.random.Generator, coder: BoxCoder, reference: Boxes, stage: Stage) -> NDArray[np.float64]:
    """[n, 4] deltas whose dw and dh lie at, above and below the clamp, each as often as the other. Of a box as large as the
    clamp allows, one corner lies on the canvas, so that a larger one shows."""
    n = len(reference)
    steps = np.array([0.0, 1.0, 30.0, -0.05, -2.0, -6.0, -30.0])
    growth = coder.scale_clamp + np.stack([rng.permutation(np.resize(steps, n)) for _ in range(2)], axis=1)
    size, centre = reference[:, 2:] - reference[:, :2], (reference[:, 2:] + reference[:, :2]) / 2
    reach = np.exp(np.minimum(growth, coder.scale_clamp)) * size / 2
    corner = rng.uniform(0.2, 0.8, (n, 2)) * (stage.width, stage.height)
    shift = (corner + rng.choice([-1.0, 1.0], (n, 2)) * reach - centre) / size
    return np.concatenate([shift, growth], axis=1) * np.array(coder.weights)


def encode(reference: Boxes, boxes: Boxes, coder: BoxCoder) -> NDArray[np.float64]:
    """Box2BoxTransform.get_deltas (detectron2 modeling/box_regression.py); a box without extent gets a very small one."""
    size, wanted = (np.maximum(b[:, 2:] - b[:, :2], 1e-30) for b in (reference, boxes))
    shift = ((boxes[:, :2] + boxes[:, 2:]) - (reference[:, :2] + reference[:, 2:])) / 2 / size
    return np.concatenate([shift, np.log(wanted / size)], axis=1) * np.array(coder.weights)


def encode_linear(reference: Boxes, boxes: Boxes) -> NDArray[np.float64]:
    """Box2BoxTransformLinear.get_deltas with normalize_by_size: distances from the anchor's centre in its sizes."""
    centre = (reference[:, :2] + reference[:, 2:]) / 2
    size = np.tile(reference[:, 2:] - reference[:, :2], 2)
    return np.concatenate([centre - boxes[:, :2], boxes[:, 2:] - centre], axis=1) / size


def to_map(rows: NDArray[np.float32], level: RPNLevel | DenseLevel) -> NDArray[np.float32]:
    """[H * W * A, K] -> [1, A * K, H, W]."""
    k = rows.shape[1]
    planes = rows.reshape(level.height, level.width, level.anchors * k).transpose(2, 0, 1)
    return np.ascontiguousarray(planes[None], np.float32)


def dense_probes(spec: DetectorSpec, head: DenseHead) -> Iterator[Probe]:
    """Class logits, deltas and centerness of every level."""
    rng, levels = rng_of(2), head.levels
    anchors = [grid_anchors(level).astype(np.float64) for level in levels]
    topk = sum(min(level.topk, len(around)) for level, around in zip(levels, anchors, strict=True))
    each = -(-topk // head.num_classes) if head.class_topk is None else min(head.class_topk, sum(map(len, anchors)))
    stage = Stage(spec.image.height, spec.image.width, head.num_classes, head.score_threshold, head.nms_threshold,
                  head.detections_per_image, each, clipped=head.clipped_first)  # fmt: skip
    share = np.array([len(around) for around in anchors], np.float64) ** 0.5
    for scene in (*stage.scenes(rng), *(_one_full_class(stage, rng) if head.class_topk is not None else ())):
        of_level = rng.choice(len(levels), len(scene.kinds), p=share / share.sum())
        feeds: dict[str, NDArray[np.generic]] = {}
        for index, (level, around) in enumerate(zip(levels, anchors, strict=True)):
            own = scene.of(np.nonzero(of_level == index)[0][: len(around)])
            feeds |= _dense_level(head, level, index, around, own, rng)
        yield Probe(scene.name, feeds)


def _one_full_class(stage: Stage, rng: np.random.Generator) -> Iterator[Scene]:
    """More candidates of the last class than one may have, where the many classes of a full scene leave each with fewer."""
    alone = replace(stage, kinds=1)
    scene = alone.settled(alone.full(rng))
    yield replace(scene, name="more than a class keeps", kinds=np.full(len(scene.kinds), stage.kinds - 1))


def _dense_level(
    head: DenseHead, level: DenseLevel, index: int, around: Boxes, own: Scene, rng: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    chosen = rng.choice(len(around), len(own.kinds), replace=False)
    logits = np.full((len(around), head.columns), _SILENT, np.float32)
    logits[:, : head.first_class] = 0  # of a background, beside which a softmax of one class is the sigmoid
    deltas = np.zeros((len(around), 4), np.float32)
    likely = np.minimum(own.scores, _SURE)
    scores = likely if level.centerness_tensor is None else likely**2
    with np.errstate(divide="ignore"):
        logits[chosen, own.kinds + head.first_class] = np.maximum(np.log(scores / (1 - scores)), _SILENT)
    if head.coder is None:
        deltas[chosen] = encode_linear(around[chosen], own.boxes)
    else:
        deltas[chosen] = encode(around[chosen], own.boxes, head.coder)
    feeds: dict[str, NDArray[np.generic]] = {f"logits{index}": to_map(logits, level), f"deltas{index}": to_map(deltas, level)}
    if level.centerness_tensor is not None:
        sure = np.full((len(around), 1), 30.0, np.float32)
        if "threshold" not in own.name:
            sure[chosen, 0] = rng.uniform(2.0, 5.0, len(chosen))
        feeds[f"centerness{index}"] = to_map(sure, level)
    return feeds


def detection_probes(spec: DetectorSpec, head: BoxHead, rows: int) -> Iterator[Probe]:
    """Class probabilities, deltas and proposals: roles scores0 (of each stage of a cascade), deltas, boxes."""
    rng, classes = rng_of(3), head.num_classes
    stage = Stage(spec.image.height, spec.image.width, classes, head.score_threshold, head.nms_threshold,
                  head.detections_per_image, -(-rows // classes))  # fmt: skip
    for scene in stage.scenes(rng):
        yield Probe(scene.name, _head_rows(spec, head, stage, scene.of(np.arange(min(rows, len(scene.kinds)))), rng))
    yield _head_clamped(spec, head, stage, rng)


def _head_rows(
    spec: DetectorSpec, head: BoxHead, stage: Stage, scene: Scene, rng: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """A row per candidate: a proposal nearby, the class's own deltas to the box, other classes' deltas at random."""
    n = max(1, len(scene.kinds))
    proposals = _proposals(stage, rng, n)
    deltas = rng.normal(0, 1, (n, head.box_groups, 4))
    scores = np.zeros((n, head.num_classes + 1), np.float32)
    if len(scene.kinds):
        rows, columns = np.arange(n), scene.kinds + head.first_class
        scores[rows, columns] = scene.scores
        deltas[rows, 0 if head.class_agnostic else columns] = encode(proposals, scene.boxes, head.coder)
    scores[:, 0 if head.background_first else -1] = 1 - scores[:, head.foreground].sum(axis=1)
    return _head_feeds(spec, proposals, deltas, scores, even="threshold" in scene.name)


def _proposals(stage: Stage, rng: np.random.Generator, n: int) -> Boxes:
    size = np.array([stage.width, stage.height], np.float64)
    side = rng.uniform(0.1, 0.4, (n, 2)) * size
    corner = rng.uniform(0, 1, (n, 2)) * (size - side)
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32).astype(np.float64)


def _head_feeds(
    spec: DetectorSpec, proposals: Boxes, deltas: NDArray[np.float64], scores: NDArray[np.float32], even: bool
) -> dict[str, NDArray[np.generic]]:
    """Of a cascade, the stages' scores differ unless `even`, and their mean is what was wanted."""
    n, stages = len(proposals), len(spec.cascade) + 1
    parts = [scores] * stages if even else [scores * np.float32(1 + 0.2 * (2 * i - stages + 1)) for i in range(stages)]
    return {
        "boxes": proposals.astype(np.float32), "deltas": deltas.reshape(n, -1).astype(np.float32),
        **{f"scores{index}": part for index, part in enumerate(parts)},
    }  # fmt: skip


def _head_clamped(spec: DetectorSpec, head: BoxHead, stage: Stage, rng: np.random.Generator) -> Probe:
    n = 40
    proposals = _proposals(stage, rng, n)
    raw = clamp_deltas(rng, head.coder, proposals, stage)
    kinds = np.arange(n) % head.num_classes
    scene = Scene("beyond the clamp", decode(proposals, raw, head.coder), kinds, np.linspace(0.99, 0.3, n))
    keep = np.isin(scene.scores, stage.settled(scene).scores)
    deltas = rng.normal(0, 1, (n, head.box_groups, 4))
    deltas[np.arange(n), 0 if head.class_agnostic else kinds + head.first_class] = raw
    scores = np.zeros((n, head.num_classes + 1), np.float32)
    scores[np.arange(n), kinds + head.first_class] = np.where(keep, scene.scores, 0)
    return Probe(scene.name, _head_feeds(spec, proposals, deltas, scores, even=False))
