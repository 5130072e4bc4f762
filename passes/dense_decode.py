"""Selects a dense head's best candidates of each level first and decodes only those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import DenseHead, DenseLevel, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.emit.boxes import columns, decode
from onnxgraft.passes.fix_input import first_image
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import ANCHORS, DENSE_CANDIDATES, NORMALIZED_INPUT, Fact
from onnxgraft.pipeline.values import LevelValues


@dataclass(frozen=True, kw_only=True)
class DenseDecode(DetectorPass[DenseHead]):
    """Per level: the best anchors, the best of their classes, decode only those.

    The export ranks every class of every anchor (20 million at 1344x1344 with 80 classes) above the score threshold.
    Here anchors are ranked by their best class first: the k best pairs belong to the k best anchors, so the result is
    the same. Pairs below the threshold stay in, at a fixed number of candidates; dense-nms rules them out. Legal when
    (1) anchors are constants and (2) every level has a TopK of its own. A detector without a dense head is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (ANCHORS, NORMALIZED_INPUT)
    provides: ClassVar[tuple[Fact | str, ...]] = (DENSE_CANDIDATES,)
    noun: ClassVar[str] = "dense head"

    @staticmethod
    def part(spec: DetectorSpec) -> DenseHead | None:
        return spec.dense

    def rewrite(self, graph: Graph, ctx: Context, head: DenseHead) -> None:
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

    def candidates(self, anchors: np.ndarray) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor]:
        """(boxes [N, k, 4], scores [N, k], classes int64 [N, k]), best first, and gives the export the first image's."""
        b, n, c = self.b, self.batch, self.classes
        kept = min(self.level.topk, self.total)
        k = min(self.level.topk, self.total * c)
        ranked, chosen = self._ranked(kept)
        flat = b.op("Reshape", [ranked, b.ints("pairs", [n, -1])], "pairs", shape=[n, kept * c])
        best, pair = self._topk(flat, k, "best")
        row = b.op("Div", [pair, b.ints("classes", c)], "row", dtype=np.int64, shape=[n, k])
        label = b.op("Mod", [pair, b.ints("classes", c)], "class", dtype=np.int64, shape=[n, k])
        anchor = row
        if chosen is not None:
            anchor = b.op("GatherElements", [chosen, row], "anchor", dtype=np.int64, shape=[n, k], axis=1)
        deltas = self._rows(self._by_location(self.level.deltas_tensor, 4, "deltas"), anchor, [n, k, 4], "deltas")
        selected = b.op("Gather", [b.const("anchors", anchors), anchor], "selected_anchors", shape=[n, k, 4], axis=0)
        if self.head.coder is None:
            boxes = decode_linear(b, deltas, selected, [n, k, 4])
        else:
            boxes = decode(b, deltas, selected, self.head.coder, [n, k, 4], [n, k, 4])
        self._hand_over(boxes, best, label)
        return boxes, best, label

    def _ranked(self, kept: int) -> tuple[gs.Tensor, gs.Tensor | None]:
        """Scores [N, kept, K] of the anchors with the best class, and their numbers [N, kept], None where all are kept.

        Probabilities are ranked, not logits: where a sigmoid rounds to 1, the first ones win, as in the export.
        """
        b, n, c, total = self.b, self.batch, self.classes, self.total
        logits = self._by_location(self.ctx.current(self.level.logits_tensor), c, "logits")
        centerness = None
        if self.level.centerness_tensor:
            maps = self._by_location(self.level.centerness_tensor, 1, "centerness")
            centerness = b.op("Sigmoid", [maps], "centerness_probability", shape=[n, total, 1])
        chosen = None
        if kept < total:
            highest = b.op("ReduceMax", [logits, b.ints("class_axis", [2])], "best_class", shape=[n, total, 1], keepdims=1)
            highest = self._score(highest, centerness, [n, total, 1])
            flat = b.op("Reshape", [highest, b.ints("flat", [n, -1])], "best_class_flat", shape=[n, total])
            _, chosen = self._topk(flat, kept, "anchors")
            logits = self._rows(logits, chosen, [n, kept, c], "logits")
            if centerness is not None:
                centerness = self._rows(centerness, chosen, [n, kept, 1], "centerness")
        return self._score(logits, centerness, [n, kept, c]), chosen

    def _score(self, logits: gs.Tensor, centerness: gs.Tensor | None, shape: list[int]) -> gs.Tensor:
        """sigmoid(class) (RetinaNet), or sqrt(sigmoid(class) sigmoid(centerness)) (FCOS.forward_inference)."""
        probability = self.b.op("Sigmoid", [logits], "class_probability", shape=shape)
        if centerness is None:
            return probability
        product = self.b.op("Mul", [probability, centerness], "product", shape=shape)
        return self.b.op("Sqrt", [product], "score", shape=shape)

    def _by_location(self, name: str, size: int, hint: str) -> gs.Tensor:
        """permute_to_N_HWA_K: [N, A * size, H, W] -> [N, H * W * A, size]."""
        b, n, level = self.b, self.batch, self.level
        a, h, w = level.anchors, level.height, level.width
        tensor = b.op("Reshape", [self.graph.tensor(name), b.ints("per_anchor", [n, a, size, h, w])], f"{hint}_per_anchor",
                      shape=[n, a, size, h, w])  # fmt: skip
        tensor = b.op("Transpose", [tensor], f"{hint}_by_location", shape=[n, h, w, a, size], perm=[0, 3, 4, 1, 2])
        return b.op("Reshape", [tensor, b.ints("flat", [n, -1, size])], hint, shape=[n, h * w * a, size])

    def _topk(self, values: gs.Tensor, k: int, hint: str) -> tuple[gs.Tensor, gs.Tensor]:
        shape = [self.batch, k]
        best, index = self.b.ops(
            "TopK", [values, self.b.ints("k", [k])], [(hint, np.float32, shape), (f"{hint}_index", np.int64, shape)],
            axis=1, largest=1, sorted=1,
        )  # fmt: skip
        return best, index

    def _rows(self, table: gs.Tensor, index: gs.Tensor, shape: list[int], hint: str) -> gs.Tensor:
        """Rows of each image's table [N, rows, size] by int64 [N, k]."""
        b = self.b
        rows = b.op("Unsqueeze", [index, b.ints("last", [2])], f"{hint}_rows", dtype=np.int64, shape=[*shape[:2], 1])
        return b.op("GatherND", [table, rows], f"selected_{hint}", shape=shape, batch_dims=1)

    def _hand_over(self, boxes: gs.Tensor, scores: gs.Tensor, label: gs.Tensor) -> None:
        """Give the rest of the export, which takes a varying number, the first image's candidates above the threshold."""
        b, n, level = self.b, self.batch, self.level
        first = b.op("Reshape", [first_image(b, scores, n), b.ints("flat", [-1])], "first_scores",
                     shape=[int(scores.shape[1])])  # fmt: skip
        above = b.op("Greater", [first, b.floats("threshold", self.head.score_threshold)], "above", dtype=np.bool_,
                     shape=list(first.shape))  # fmt: skip
        count = f"{b.prefix}/above"
        found = b.op("NonZero", [above], "found", dtype=np.int64, shape=[1, count])
        rows = b.op("Squeeze", [found, b.ints("axis", [0])], "rows", dtype=np.int64, shape=[count])
        for name, tensor, width in (
            (level.boxes_tensor, boxes, [4]), (level.scores_tensor, scores, []), (level.classes_tensor, label, []),
        ):  # fmt: skip
            flat = b.op("Reshape", [first_image(b, tensor, n), b.ints("each", [-1, *width])], "first",
                        dtype=tensor.dtype, shape=[int(tensor.shape[1]), *width])  # fmt: skip
            kept = b.op("Gather", [flat, rows], "kept", dtype=tensor.dtype, shape=[count, *width], axis=0)
            self.graph.replace(self.graph.tensor(name), kept)


def decode_linear(b: Builder, deltas: gs.Tensor, anchors: gs.Tensor, shape: list[int]) -> gs.Tensor:
    """Box2BoxTransformLinear.apply_deltas with normalize_by_size (detectron2 modeling/box_regression.py).

    Args:
        deltas: [N, k, 4] distances from the anchor's centre to left, top, right, bottom, in anchor sizes.
        anchors: [N, k, 4], x1, y1, x2, y2.

    Returns:
        Boxes x1, y1, x2, y2 of `shape`, not clipped.
    """
    half = [*shape[:-1], 2]
    low = columns(b, anchors, 0, 2, "x1y1", half)
    high = columns(b, anchors, 2, 4, "x2y2", half)
    total = b.op("Add", [low, high], "corner_sum", shape=half)
    centre = b.op("Mul", [total, b.floats("half", 0.5)], "centre", shape=half)
    size = b.op("Sub", [high, low], "size", shape=half)
    distances = b.op("Relu", [deltas], "distances", shape=shape)
    before = b.op("Mul", [columns(b, distances, 0, 2, "left_top", half), size], "before", shape=half)
    behind = b.op("Mul", [columns(b, distances, 2, 4, "right_bottom", half), size], "behind", shape=half)
    corner = b.op("Sub", [centre, before], "new_x1y1", shape=half)
    opposite = b.op("Add", [centre, behind], "new_x2y2", shape=half)
    return b.op("Concat", [corner, opposite], "decoded", shape=shape, axis=-1)
