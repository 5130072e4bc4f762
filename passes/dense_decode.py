"""Selects a dense head's best candidates of each level first and decodes only those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxgraft.detector.spec import DenseHead, DenseLevel, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Value, constant
from onnxgraft.passes.emit.boxes import clip, decode, decode_linear
from onnxgraft.passes.emit.class_head import class_candidates
from onnxgraft.passes.emit.rows import by_location, first_image, largest, rows_of
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import ANCHORS, DENSE_CANDIDATES, NORMALIZED_INPUT, Fact
from onnxgraft.pipeline.values import LevelValues


@dataclass(frozen=True, kw_only=True)
class DenseDecode(DetectorPass[DenseHead]):
    """Per level: the best anchors, the best of their classes, decode only those.

    The export ranks every class of every anchor (20 million at 1344x1344 with 80 classes) above the score threshold.
    Here anchors are ranked by their best class first: the k best pairs belong to the k best anchors, so the result is
    the same. Pairs below the threshold stay in, at a fixed number of candidates; dense-nms rules them out. Of SSD, whose
    classes rank all anchors each for itself, one softmax and one TopK over all of them take the place of a filter and a
    TopK for each class. Legal when (1) anchors are constants and (2) every level, or every class, has a TopK of its own. A
    detector without a dense head is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (ANCHORS, NORMALIZED_INPUT)
    provides: ClassVar[tuple[Fact | str, ...]] = (DENSE_CANDIDATES,)
    noun: ClassVar[str] = "dense head"

    @staticmethod
    def part(spec: DetectorSpec) -> DenseHead | None:
        return spec.dense

    def rewrite(self, graph: Graph, ctx: Context, head: DenseHead) -> None:
        if head.class_topk is not None:
            ctx.values.levels = [class_candidates(graph, ctx, head, head.class_topk)]
            return
        made: list[LevelValues] = []
        for level, anchors in zip(head.levels, ctx.anchors, strict=True):
            boxes, scores, classes = _Level(graph, ctx, head, level).candidates(anchors)
            made.append(LevelValues(boxes.name, scores.name, classes.name))
            ctx.count("candidates decoded", int(scores.shape[1]))
            ctx.count("scores not ranked", len(anchors) * (head.num_classes - 1))
        ctx.values.levels = made


class _Level:
    """Emits the nodes of one level."""

    def __init__(self, graph: Graph, ctx: Context, head: DenseHead, level: DenseLevel) -> None:
        self.graph, self.ctx, self.head, self.level = graph, ctx, head, level
        self.b = Builder(graph, f"dense/stride{level.stride}", [graph.tensor(level.scores_tensor).inputs[0].name])
        self.batch, self.classes = ctx.batch, head.num_classes
        self.total = level.height * level.width * level.anchors

    def candidates(self, anchors: np.ndarray) -> tuple[Value, Value, Value]:
        """(boxes [N, k, 4], scores [N, k], classes int64 [N, k]), best first, and gives the export the first image's."""
        b, c, level = self.b, self.classes, self.level
        ranked, chosen = self._ranked(min(level.topk, self.total))
        pairs = ranked.reshape(self.batch, -1, hint="pairs").named("pairs")
        best, pair = largest(pairs, min(level.topk, self.total * c), ("best", "best_index"))
        row = (pair / constant("classes", c)).named("row")
        label = (pair % constant("classes", c)).named("class")
        anchor = row if chosen is None else chosen.take_along(row, axis=1).named("anchor")
        deltas = self._rows(self._by_location(level.deltas_tensor, 4, "deltas"), anchor, "deltas")
        selected = b.of(b.const("anchors", anchors)).take(anchor).named("selected_anchors")
        coder = self.head.coder
        boxes = decode_linear(deltas, selected) if coder is None else decode(deltas, selected, coder)
        if self.head.clipped_first:
            boxes = clip(b, self.ctx, boxes)
        self._hand_over(boxes, best, label)
        return boxes, best, label

    def _ranked(self, kept: int) -> tuple[Value, Value | None]:
        """Scores [N, kept, K] of the anchors with the best class, and their numbers [N, kept], None where all are kept.

        Probabilities are ranked, not logits: where a sigmoid rounds to 1, the first ones win, as in the export.
        """
        logits = self._by_location(self.ctx.current(self.level.logits_tensor), self.classes, "logits")
        centerness = None
        if self.level.centerness_tensor:
            maps = self._by_location(self.level.centerness_tensor, 1, "centerness")
            centerness = maps.sigmoid().named("centerness_probability")
        if kept == self.total:
            return _score(logits, centerness), None
        highest = _score(logits.amax(2, keepdims=True, hint="class_axis").named("best_class"), centerness)
        flat = highest.reshape(self.batch, -1, hint="flat").named("best_class_flat")
        _, chosen = largest(flat, kept, ("anchors", "anchors_index"))
        logits = self._rows(logits, chosen, "logits")
        if centerness is not None:
            centerness = self._rows(centerness, chosen, "centerness")
        return _score(logits, centerness), chosen

    def _by_location(self, name: str, size: int, hint: str) -> Value:
        names = f"{hint}_per_anchor", f"{hint}_by_location", hint
        return by_location(self.b.of(name), self.batch, self.level, size, names, "flat")

    def _rows(self, table: Value, index: Value, hint: str) -> Value:
        return rows_of(table, index, (f"{hint}_rows", f"selected_{hint}"))

    def _hand_over(self, boxes: Value, scores: Value, label: Value) -> None:
        """Give the rest of the export, which takes a varying number, the first image's candidates above the threshold."""
        b, n, level = self.b, self.batch, self.level
        first = first_image(scores, n).reshape(-1, hint="flat").named("first_scores")
        above = (first > constant("threshold", float(self.head.score_threshold))).named("above")
        found = b.op("NonZero", [above], "found", dtype=np.int64, shape=[1, f"{b.prefix}/above"])
        rows = b.of(found).squeeze(0, hint="axis").named("rows")
        for name, made, width in (
            (level.boxes_tensor, boxes, [4]), (level.scores_tensor, scores, []), (level.classes_tensor, label, []),
        ):  # fmt: skip
            flat = first_image(made, n).reshape(-1, *width, hint="each").named("first")
            self.graph.replace(self.graph.tensor(name), flat.take(rows).named("kept").handle)


def _score(logits: Value, centerness: Value | None) -> Value:
    """sigmoid(class) (RetinaNet), or sqrt(sigmoid(class) sigmoid(centerness)) (FCOS.forward_inference)."""
    probability = logits.sigmoid().named("class_probability")
    return probability if centerness is None else (probability * centerness).named("product").sqrt().named("score")
