"""The parts of a detector, each held against detectron2's formula on probes (see measure.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnxgraft.analysis import probes
from onnxgraft.analysis.evidence import Evidence
from onnxgraft.analysis.measure import Probe, compare_found, hold
from onnxgraft.detector import reference
from onnxgraft.detector.reference import Found
from onnxgraft.detector.spec import RPN, BoxHead, CascadeStage, DenseHead, MaskHead, Outputs, Pooler
from onnxgraft.ir.graph import Graph

Size = tuple[int, int]
_APART = (-4.0, 2.0)  # logits between which float32 tells probabilities apart that are ranked
_ROWS = 256  # proposals of a probe, where the graph does not fix their number


def hold_rpn(
    graph: Graph, rpn: RPN, image: Size, objectness: str | None = None, evidence: Evidence | None = None
) -> None:
    """Hold the proposals against find_top_rpn_proposals, from the levels' maps on.

    Args:
        objectness: the output that gives the proposals' logits, if there is one.
        evidence: learns what the nodes did.

    Raises:
        Refusal: they differ.
    """
    outputs = [graph.tensor(name) for name in (rpn.proposals_tensor, objectness) if name]
    hold(graph, outputs, _proposal_probes(rpn, image), "the proposals", evidence)


def _proposal_probes(rpn: RPN, image: Size) -> Iterator[Probe]:
    for seed, share in ((1, 1.0), (2, 0.01), (3, 0.0)):
        rng = probes.random(seed)
        maps = probes.LevelMaps(rpn.levels, 1)
        low, high = _APART if rpn.probabilities else (-8, 8)
        every = rng.permutation(np.linspace(low, high, sum(maps.rows))).astype(np.float32)
        maps.logits = np.split(every, np.cumsum(maps.rows)[:-1])
        for index, rows in enumerate(maps.rows):
            maps.deltas[index] = probes.box_deltas(rng, rows, 1, rpn.coder.weights)
            maps.deltas[index][rng.random(rows) >= share, 0] = probes.OUT * 10

        logits, deltas = maps.logit_maps(), maps.delta_maps()
        found = reference.proposal_candidates(rpn, logits, deltas, image)
        doubts = probes.doubtful(found, rpn.nms_threshold, None)
        if len(doubts):
            maps.shrink(found.origin[doubts])
            deltas = maps.delta_maps()
        found = found.rows(np.delete(np.arange(len(found)), doubts))
        kept = reference.suppress(found, rpn.nms_threshold)
        kept = kept.rows(np.arange(min(len(kept), rpn.post_nms_topk)))
        feeds: dict[str, np.ndarray] = {}
        for level, of_scores, of_boxes in zip(rpn.levels, logits, deltas, strict=True):
            feeds |= {level.logits_tensor: of_scores, level.deltas_tensor: of_boxes}

        def compare(results: Sequence[np.ndarray], kept: Found = kept) -> str | None:
            scores = results[1] if len(results) > 1 else None
            return compare_found(kept, results[0].reshape(-1, 4), scores, None)

        yield feeds, compare


def hold_detections(
    graph: Graph, outputs: Outputs, head: BoxHead, stages: Sequence[CascadeStage], pooler: Pooler, image: Size,
    evidence: Evidence | None = None,
) -> None:  # fmt: skip
    """Hold the detections against FastRCNNOutputLayers.inference, from class logits, deltas and proposals on.

    Args:
        evidence: learns what the nodes did.

    Raises:
        Refusal: they differ.
    """
    poolers = [*(stage.pooler for stage in stages), pooler]
    first = graph.tensor(poolers[0].boxes_tensor)
    fixed = first.shape[0] if first.shape else None
    rows = fixed if isinstance(fixed, int) else max(_ROWS, 4 * head.detections_per_image // min(head.num_classes, 4))
    made = [_BoxProbe(rows, seed, likely, head, stages, image) for seed, likely in ((4, 1.0), (5, 8 / rows), (6, 0.0))]
    wanted = [graph.tensor(n or "") for n in (outputs.boxes_tensor, outputs.scores_tensor, outputs.classes_tensor)]
    hold(graph, wanted, (_detections(probe, head, stages, first.name) for probe in made), "the detections", evidence)
    between = [graph.tensor(p.boxes_tensor) for p in poolers[1:]]
    if between:
        feeds = _detections(made[0], head, stages, first.name)[0]
        hold(graph, between, [(feeds, made[0].compare_stages)], "the boxes between the cascade's stages")


def _detections(probe: _BoxProbe, head: BoxHead, stages: Sequence[CascadeStage], proposals: str) -> Probe:
    found = probes.settle(probe.candidates, probe.silence, head.nms_threshold, head.score_threshold)
    kept = reference.suppress(found, head.nms_threshold)
    kept = kept.rows(np.arange(min(len(kept), head.detections_per_image)))
    names = [*(stage.logits_tensor for stage in stages), head.logits_tensor]
    feeds = dict(zip(names, probe.logits, strict=True))
    feeds |= dict(zip([*(stage.deltas_tensor for stage in stages), head.deltas_tensor], probe.deltas, strict=True))
    feeds[proposals] = probe.proposals
    named = replace(kept, classes=kept.classes + head.first_class)
    return feeds, lambda results: compare_found(named, *results)


class _BoxProbe:
    """Inputs of a box head: proposals [R, 4], class logits [R, C + 1] and deltas [R, 4 or 4C] of each stage."""

    def __init__(
        self, rows: int, seed: int, likely: float, head: BoxHead, stages: Sequence[CascadeStage], image: Size
    ) -> None:
        rng = probes.random(seed)
        self.head, self.image = head, image
        self.coders = [stage.coder for stage in stages]
        self.proposals = probes.boxes(rng, rows, image)
        width = head.box_groups
        self.deltas = [probes.box_deltas(rng, rows, 1, coder.weights) for coder in self.coders]
        self.deltas.append(probes.box_deltas(rng, rows, width, head.coder.weights))
        likelihood = rng.random(rows) < likely
        self.logits = [probes.class_logits(rng, likelihood, head.num_classes) for _ in range(len(stages) + 1)]
        self.logits = [np.roll(logits, head.first_class, 1) for logits in self.logits]  # the background may come first

    def boxes(self) -> list[np.ndarray]:
        """The boxes that each stage pools, the proposals first."""
        return [self.proposals, *reference.stage_boxes(self.proposals, self.deltas[:-1], self.coders, self.image)]

    def candidates(self) -> Found:
        scores = reference.class_scores(self.logits, self.head)
        found = reference.box_candidates(self.boxes()[-1], self.deltas[-1], scores, self.head, self.image)
        return found.rows(np.nonzero(found.scores > self.head.score_threshold)[0])

    def silence(self, origin: np.ndarray) -> None:
        for logits in self.logits:
            logits[origin // self.head.num_classes, origin % self.head.num_classes + self.head.first_class] = probes.SILENT

    def compare_stages(self, results: Sequence[np.ndarray]) -> str | None:
        for found, expected in zip(results, self.boxes()[1:], strict=True):
            if found.shape != expected.shape or not np.abs(found - expected).max() < 0.02:
                return "other boxes than decoded and clipped ones"
        return None


def hold_dense(graph: Graph, outputs: Outputs, head: DenseHead, image: Size, evidence: Evidence | None = None) -> None:
    """Hold a dense head's detections against RetinaNet's, FCOS's and SSD's inference, from the levels' maps on.

    Args:
        evidence: learns what the nodes did.

    Raises:
        Refusal: they differ.
    """
    wanted = [graph.tensor(n or "") for n in (outputs.boxes_tensor, outputs.scores_tensor, outputs.classes_tensor)]
    hold(graph, wanted, _dense_probes(head, image), "the detections", evidence)


def _dense_probes(head: DenseHead, image: Size) -> Iterator[Probe]:
    weights = head.coder.weights if head.coder else (1.0, 1.0, 1.0, 1.0)
    for seed, share in ((7, 1.5), (8, 0.02), (9, 0.0)):
        rng = probes.random(seed)
        maps = probes.LevelMaps(head.levels, head.columns)
        for index, (level, rows) in enumerate(zip(head.levels, maps.rows, strict=True)):
            maps.deltas[index] = probes.box_deltas(rng, rows, 1, weights)
            if head.coder is None:
                maps.deltas[index] = (maps.deltas[index] * 2 + 1.5).astype(np.float32)
            chosen = _told(head, rng, rows, int(share * level.topk), maps.logits[index])
            size = len(chosen)
            maps.logits[index][chosen] = rng.permutation(np.linspace(-4, 4, size)) + 0.0007 * index
            maps.centerness[index][:] = rng.normal(1, 1, rows)

        def candidates(maps: probes.LevelMaps = maps) -> Found:
            made = [(a, b, c if level.centerness_tensor else None)
                    for (a, b, c), level in zip(maps.maps(), head.levels, strict=True)]  # fmt: skip
            return reference.dense_candidates(head, made, image)

        found = probes.settle(candidates, maps.silence, head.nms_threshold, head.score_threshold)
        kept = reference.suppress(found, head.nms_threshold)
        kept = kept.rows(np.arange(min(len(kept), head.detections_per_image)))
        if not head.clipped_first:
            kept = Found(reference.clip(kept.boxes, image), kept.scores, kept.classes, kept.origin)
            kept = kept.rows(np.nonzero(reference.sides(kept.boxes) > 0)[0])
        feeds: dict[str, np.ndarray] = {}
        for level, (logits, deltas, centerness) in zip(head.levels, maps.maps(), strict=True):
            feeds |= {level.logits_tensor: logits, level.deltas_tensor: deltas}
            feeds |= {level.centerness_tensor: centerness} if level.centerness_tensor else {}

        named = replace(kept, classes=kept.classes + head.first_class)

        def compare(results: Sequence[np.ndarray], named: Found = named) -> str | None:
            return compare_found(named, *results)

        yield feeds, compare


def _told(head: DenseHead, rng: np.random.Generator, rows: int, most: int, logits: np.ndarray) -> np.ndarray:
    """Places int64 [n] in a level's flat logits that are candidates; of a softmax one an anchor, whose background is at 0, so
    that its score is its logit's sigmoid."""
    if not head.first_class:
        size = min(rows * head.num_classes, most)
        return rng.choice(rows * head.num_classes, size, replace=False)
    logits[:: head.columns] = 0
    anchors = rng.choice(rows, min(rows, most), replace=False)
    return anchors * head.columns + head.first_class + rng.integers(0, head.num_classes, len(anchors))


def hold_masks(
    graph: Graph, outputs: Outputs, head: MaskHead, box_head: BoxHead, evidence: Evidence | None = None
) -> None:
    """Hold that each detection's mask is the sigmoid of its own class's logits.

    Args:
        evidence: learns what the nodes did.

    Raises:
        Refusal: another class, order or activation.
    """
    rng = probes.random(11)
    rows, size = 7, head.resolution
    first, classes = box_head.first_class, box_head.num_classes
    channels = 1 if head.class_agnostic else classes + first
    logits = rng.normal(0, 2, (rows, channels, size, size)).astype(np.float32)
    kinds = rng.integers(first, classes + first, rows)
    feeds: dict[str, np.ndarray] = {
        head.logits_tensor: logits,
        outputs.classes_tensor or "": kinds,
        outputs.boxes_tensor or "": probes.boxes(rng, rows, (size * 8, size * 8)),
        outputs.scores_tensor or "": rng.random(rows).astype(np.float32),
    }
    expected = reference.sigmoid(logits[np.arange(rows), kinds if channels > 1 else 0])[:, None]

    def compare(results: Sequence[np.ndarray]) -> str | None:
        if results[0].shape != expected.shape:
            return f"masks of shape {list(results[0].shape)}"
        error = np.abs(results[0] - expected).max()
        return None if error < 1e-4 else f"a mask differs by {error:.3g} from that of its class"

    hold(graph, [graph.tensor(outputs.masks_tensor or "")], [(feeds, compare)], "the masks", evidence)
