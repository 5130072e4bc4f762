"""SSD's head: each class ranks all anchors by its own probability and is suppressed alone; the best of all classes are kept."""

from __future__ import annotations

from typing import Literal

import numpy as np

from onnxgraft.detector.spec import DenseHead, DenseLevel
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Value, concat, constant, where
from onnxgraft.passes.emit.boxes import clip, decode, just_above
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.passes.emit.ranks import ranks_of, values_of_ranks
from onnxgraft.passes.emit.rows import by_location, first_image, largest, rows_of
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.values import LevelValues
from onnxgraft.plugins.efficient_nms import CAP
from onnxgraft.plugins.lowering import NmsLowering

_NONE = -1.0  # below every probability


def class_candidates(graph: Graph, ctx: Context, head: DenseHead, most: int) -> LevelValues:
    """The `most` best anchors of each class, decoded and clipped: boxes [N, C * k, 4], scores [N, C * k] and classes int64
    [N, C * k], each class's best first; and the export gets the first image's above the threshold.

    All anchors are decoded, and once: the classes together choose more of them than there are.
    """
    b = Builder(graph, "dense/classes", [graph.tensor(head.levels[0].scores_tensor).inputs[0].name])
    n, classes = ctx.batch, head.num_classes
    anchors = np.concatenate(ctx.anchors)
    k = min(most, len(anchors))
    logits = _of_levels(b, ctx, head, [level.logits_tensor for level in head.levels], head.columns, "logits")
    scores = logits.op("Softmax", axis=2).named("probability")[..., head.first_class :].named("foreground")
    ranked = scores.transpose(0, 2, 1).named("by_class")
    best, index = ranked.topk(constant("k", [k]), ("best", "best_index"), axis=2, largest=1, sorted=1)
    deltas = _of_levels(b, ctx, head, [level.deltas_tensor for level in head.levels], 4, "deltas")
    around = b.of(b.const("anchors", anchors[None]))
    assert head.coder is not None  # Box2BoxTransform's, which the analysis measured
    decoded = decode(deltas, around, head.coder)
    rows = index.reshape(n, classes * k, hint="together").named("anchor")
    boxes = rows_of(clip(b, ctx, decoded), rows, ("rows", "selected_boxes"))
    flat = best.reshape(n, classes * k, hint="together").named("scores")
    each = b.of(b.const("class_of_each", np.repeat(np.arange(classes), k)[None], np.int64))
    labels = each.op("Expand", constant("images", [n, classes * k])).named("classes")
    made = LevelValues(boxes.name, flat.name, labels.name)
    _hand_over(graph, ctx, head, (boxes, flat, labels), b)
    return made


def _of_levels(b: Builder, ctx: Context, head: DenseHead, names: list[str], size: int, hint: str) -> Value:
    """[N, A, size] of the maps of all levels, finest first."""
    made = []
    for level, name in zip(head.levels, names, strict=True):
        made.append(_by_location(b, ctx, level, name, size, hint))
    return made[0] if len(made) == 1 else concat(*made, axis=1).named(f"all_{hint}")


def _by_location(b: Builder, ctx: Context, level: DenseLevel, name: str, size: int, hint: str) -> Value:
    names = f"{hint}_per_anchor", f"{hint}_by_location", hint
    return by_location(b.of(ctx.current(name)), ctx.batch, level, size, names, "flat")


def _hand_over(graph: Graph, ctx: Context, head: DenseHead, made: tuple[Value, Value, Value], b: Builder) -> None:
    """Give the rest of the export, which takes a varying number, the first image's candidates above the threshold."""
    level, n = head.levels[0], ctx.batch
    boxes, scores, classes = made
    first = first_image(scores, n).reshape(-1, hint="flat").named("first_scores")
    above = (first > constant("threshold", float(head.score_threshold))).named("above")
    found = b.op("NonZero", [above], "found", dtype=np.int64, shape=[1, f"{b.prefix}/above"])
    rows = b.of(found).squeeze(0, hint="axis").named("rows")
    numbered = (classes + head.first_class).named("numbered_classes")
    for name, each, width in (
        (level.boxes_tensor, boxes, [4]), (level.scores_tensor, scores, []), (level.classes_tensor, numbered, []),
    ):  # fmt: skip
        flat = first_image(each, n).reshape(-1, *width, hint="each").named("first")
        graph.replace(graph.tensor(name), flat.take(rows).named("kept").handle)


def suppress_classes(
    b: Builder, ctx: Context, head: DenseHead, made: LevelValues, score_threshold: float, iou_threshold: float, most: int
) -> tuple[Value, ...]:  # fmt: skip
    """(count [N, 1], boxes [N, D, 4], scores [N, D], classes int32 [N, D]): the `most` best of what is left of each class when
    it is suppressed alone; unused rows are zero.

    The classes are the batch of one EfficientNMS_TRT, whose 5000 candidates at most are then those of a class. Its scores are
    ranks within the class.
    """
    n, classes = ctx.batch, head.num_classes
    groups = n * classes
    k = int(b.of(made.scores).shape[1]) // classes
    boxes = b.of(made.boxes).reshape(groups, k, 4, hint="classes").named("boxes_of_classes")
    scores = b.of(made.scores).reshape(groups, k, hint="classes").named("scores_of_classes")
    enters = (scores > constant("score_threshold", float(score_threshold))).named("enters")
    kept = min(k, most)
    _, survivors, found, _ = add_plugin(
        b, "EfficientNMS_TRT" if k <= CAP else "UncappedNMS", [boxes, ranks_of(enters, k)],
        [("survivors", np.int32, None), ("survived", np.float32, None),
         ("rank_of_each", np.float32, None), ("class", np.int32, None)],
        score_threshold=0.5, iou_threshold=just_above(iou_threshold), max_output_boxes=kept,
        background_class=-1, score_activation=0, class_agnostic=0, box_coding=0,
    )  # fmt: skip
    in_place: Literal[0, 1] = 1 if kept == k else 0  # what is left at its place is sorted below, among all classes
    ctx.lowering[survivors.handle.inputs[0].name] = NmsLowering(presorted=1, in_place=in_place, max_candidates=k)
    of_each, _ = values_of_ranks(found, scores, _NONE, ("score", "class"))
    total = classes * kept
    together = of_each.reshape(n, total, hint="together").named("scores_of_all")
    best, index = largest(together, min(most, total), ("best", "index"))
    every = survivors.reshape(n, total, 4, hint="boxes_together").named("boxes_of_all")
    return _detections(rows_of(every, index, ("rows", "chosen_boxes")), best, (index / constant("kept", kept)).named("class"))


def _detections(boxes: Value, scores: Value, classes: Value) -> tuple[Value, ...]:
    zero = constant("zero", 0.0)
    real = (scores > zero).named("alive")
    whole = real.unsqueeze(2, hint="last").named("alive_boxes")
    return (
        real.cast(np.int32).named("alive_numbers").sum(1, keepdims=True).named("num_detections"),
        where(whole, boxes, zero).named("boxes"),
        where(real, scores, zero).named("scores"),
        where(real, classes.cast(np.int32).named("class32"), constant("zero", np.int32(0))).named("classes"),
    )
