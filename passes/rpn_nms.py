"""Suppresses proposals within each level by one EfficientNMS_TRT that has the levels as its batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import RPN, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Value, concat, constant, where
from onnxgraft.options import Share
from onnxgraft.passes.decode_boxes import ABSENT, NEVER
from onnxgraft.passes.emit.boxes import just_above, set_outputs
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.passes.emit.ranks import ranks_of, values_of_ranks
from onnxgraft.passes.emit.rows import first_image, first_valid_rows, largest, rows_of
from onnxgraft.pipeline.base import DetectorPass, Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DECODED_BOXES, PROPOSALS, Fact
from onnxgraft.pipeline.values import LevelValues, ProposalValues
from onnxgraft.plugins.efficient_nms import CAP, score_limit
from onnxgraft.plugins.lowering import NmsLowering


@dataclass(frozen=True, kw_only=True)
class RpnNMS(DetectorPass[RPN]):
    """Suppress overlapping proposals within each level: EfficientNMS_TRT with the levels as its batch, then the best of all.

    detectron2 suppresses level by level; a level as an image says the same without moving any box, as the usual offset
    would, and the plugin, which takes one block of the GPU for each image, suppresses the levels at once. Its scores are
    ranks within the level: distinct and exact, so that ties come out in their order, and what did not enter is told from
    what did by no rounding. The logits of the survivors decide which are the best of all levels. Where more than the
    plugin's 5000 boxes of one level enter (C4, DC5), UncappedNMS takes its place, which is native on every target. Of an
    RPN on its own, the proposals are the detections and their scores the probabilities of the objectness. A detector
    without an RPN is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (DECODED_BOXES,)
    provides: ClassVar[tuple[Fact | str, ...]] = (PROPOSALS,)
    modifies: ClassVar[tuple[str, ...]] = ("outputs",)
    noun: ClassVar[str] = "RPN"

    score_threshold: Share = 0.0  # detectron2 has none; NVIDIA's sample offers one

    @property
    def changes_answers(self) -> str:
        return "you chose a score threshold for proposals" if self.score_threshold else ""

    def as_exported(self) -> Pass:
        return replace(self, score_threshold=0.0)

    @staticmethod
    def part(spec: DetectorSpec) -> RPN | None:
        return spec.rpn

    def rewrite(self, graph: Graph, ctx: Context, rpn: RPN) -> None:
        n, rows = ctx.batch, max(level.topk for level in rpn.levels)
        old = graph.tensor(rpn.proposals_tensor)
        b = Builder(graph, "rpn/nms", [node.name for node in old.inputs])
        boxes, logits = _as_batch(b, ctx.values.levels, [level.topk for level in rpn.levels], n)
        if rpn.probabilities:
            enters, logits = _probabilities(logits, max(self.score_threshold, rpn.score_threshold))
        else:
            enters = (logits >= constant("threshold", score_limit(self.score_threshold, 1)[0])).named("enters")
        kept = min(rows, rpn.post_nms_topk)
        _, survivors, found, _ = add_plugin(
            b, "EfficientNMS_TRT" if rows <= CAP else "UncappedNMS", [boxes, ranks_of(enters, rows)],
            [("survivors", np.int32, None), ("survived", np.float32, None),
             ("rank_of_each", np.float32, None), ("class", np.int32, None)],
            score_threshold=0.5, iou_threshold=just_above(rpn.nms_threshold), max_output_boxes=kept,
            background_class=-1, score_activation=0, class_agnostic=0, box_coding=0,
        )  # fmt: skip
        # What the native form leaves at its place is sorted below, among all levels.
        in_place: Literal[0, 1] = 1 if kept == rows and len(rpn.levels) > 1 else 0
        ctx.lowering[survivors.handle.inputs[0].name] = NmsLowering(presorted=1, in_place=in_place, max_candidates=rows)
        proposals, best, valid = _best_of_all(survivors, found, logits, n, rpn.post_nms_topk)
        made = ProposalValues(proposals.name, valid.name)
        ctx.values.proposals = made
        if ctx.spec().box_head is None:  # whose ranks are logits
            scores = where(valid, best.sigmoid().named("probability"), constant("none", 0.0)).named("objectness")
            number = valid.cast(np.int32).named("valid_as_number").sum(1, keepdims=True).named("number")
            results = {Role.NUM_DETECTIONS: number, Role.BOXES: proposals, Role.SCORES: scores}
            ctx.values.results |= {role: made.name for role, made in results.items()}
            set_outputs(graph, ctx, [made.handle for made in results.values()])
            return
        found_rows = first_valid_rows(b, valid, n)
        ctx.values.proposals = replace(made, valid_rows=found_rows.name)
        flat = first_image(proposals, n).reshape(-1, 4, hint="rows").named("flat")
        graph.replace(old, flat.take(found_rows).named("kept").handle)


def _probabilities(logits: Value, least: float) -> tuple[Value, Value]:
    """(which enter, their probabilities) of logits [N * L, K], where a suppression ranks by probabilities and keeps those of at
    least so much."""
    probability = logits.sigmoid().named("probability")
    exists = (logits > constant("absent", ABSENT)).named("exists")
    met = (probability >= constant("threshold", float(least))).named("met") if least > 0 else None
    return exists if met is None else (exists & met).named("enters"), probability


def _as_batch(b: Builder, levels: list[LevelValues], sizes: list[int], batch: int) -> tuple[Value, Value]:
    """(boxes [N * L, K, 4], logits [N * L, K]): each level in a row of its own, short ones filled up with what never enters."""
    rows, boxes, logits = max(sizes), [], []
    for level, size in zip(levels, sizes, strict=True):
        boxes.append(b.of(level.boxes))
        logits.append(b.of(level.scores))
        if size < rows:
            nothing, never = np.zeros((batch, rows - size, 4), np.float32), np.full((batch, rows - size), NEVER, np.float32)
            boxes.append(b.of(b.const("no_boxes", nothing)))
            logits.append(b.of(b.const("never", never)))
    if len(boxes) == 1:
        return boxes[0], logits[0]
    one, two = concat(*boxes, axis=1).named("boxes"), concat(*logits, axis=1).named("logits")
    each = batch * len(levels)
    return (
        one.reshape(each, rows, 4, hint="levels").named("boxes_of_levels"),
        two.reshape(each, rows, hint="levels").named("logits_of_levels"),
    )


def _best_of_all(survivors: Value, found: Value, logits: Value, batch: int, limit: int) -> tuple[Value, Value, Value]:
    """(boxes [N, P, 4], logits [N, P], valid [N, P]) of the best of all levels.

    Args:
        survivors, found: of each level, float32 [N * L, M, 4] and their ranks [N * L, M], K for the level's best, 0 for none.
        logits: of what entered, [N * L, K].
    """
    groups, kept = survivors.shape[:2]
    of_each, real = values_of_ranks(found, logits, NEVER, ("logit", "level"))
    if groups == batch:
        return survivors, of_each, real
    total = int(groups) // batch * int(kept)
    together = of_each.reshape(batch, total, hint="together").named("logits_of_all")
    best, index = largest(together, min(limit, total), ("best", "index"))
    every = survivors.reshape(batch, total, 4, hint="boxes_together").named("boxes_of_all")
    return rows_of(every, index, ("rows", "proposals")), best, (best > constant("absent", ABSENT)).named("valid")
