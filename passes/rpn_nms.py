"""Suppresses proposals within each level by one EfficientNMS_TRT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import RPN, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Value, concat, constant, where
from onnxgraft.options import Share
from onnxgraft.passes.decode_boxes import NEVER
from onnxgraft.passes.emit.boxes import just_above, set_outputs
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.passes.emit.rows import first_image, first_valid_rows
from onnxgraft.pipeline.base import DetectorPass, Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DECODED_BOXES, PROPOSALS, Fact
from onnxgraft.pipeline.values import ProposalValues
from onnxgraft.plugins.efficient_nms import CAP
from onnxgraft.plugins.lowering import NmsLowering


@dataclass(frozen=True, kw_only=True)
class RpnNMS(DetectorPass[RPN]):
    """Suppress overlapping proposals within each level: EfficientNMS_TRT with one class per level.

    detectron2 suppresses level by level; a class per level says the same without moving any box, as the usual offset
    would. The logits are ranked as they are (the plugin's sigmoid keeps their order where a sigmoid in front would
    round them together). Where more than the plugin's 5000 boxes of an image enter (C4, DC5), UncappedNMS takes its
    place, which is native on every target. Of an RPN on its own, the proposals are the detections and their scores the
    probabilities of the objectness. A detector without an RPN is left alone.
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
        n, levels = ctx.batch, ctx.values.levels
        total = sum(level.topk for level in rpn.levels)
        old = graph.tensor(rpn.proposals_tensor)
        b = Builder(graph, "rpn/nms", [node.name for node in old.inputs])
        boxes = concat(*(b.of(level.boxes) for level in levels), axis=1).named("boxes")
        scores = concat(*(b.of(level.scores) for level in levels), axis=1).named("logits")
        per_class = _one_class_per_level(b, scores, [level.topk for level in rpn.levels])
        count, proposals, found, _ = add_plugin(
            b, "EfficientNMS_TRT" if total <= CAP else "UncappedNMS", [boxes, per_class],
            [("num_proposals", np.int32, None), ("proposals", np.float32, None),
             ("objectness", np.float32, None), ("level", np.int32, None)],
            score_threshold=self.score_threshold, iou_threshold=just_above(rpn.nms_threshold),
            max_output_boxes=rpn.post_nms_topk, background_class=-1, score_activation=1, class_agnostic=0, box_coding=0,
        )  # fmt: skip
        # Levels do not meet in suppression, and rows under the threshold are ruled out below.
        largest = max(level.topk for level in rpn.levels)
        lowering = NmsLowering(grouping="class", max_candidates=largest, below_threshold_tail=0)
        ctx.lowering[count.handle.inputs[0].name] = lowering
        valid = (found > constant("none", 0.0)).named("valid")
        made = ProposalValues(proposals.name, valid.name, count=count.name)
        ctx.values.proposals = made
        if ctx.spec().box_head is None:
            number = valid.cast(np.int32).named("valid_as_number").sum(1, keepdims=True).named("number")
            results = {Role.NUM_DETECTIONS: number, Role.BOXES: proposals, Role.SCORES: found}
            ctx.values.results |= {role: made.name for role, made in results.items()}
            set_outputs(graph, ctx, [made.handle for made in results.values()])
            return
        rows = first_valid_rows(b, valid, n)
        ctx.values.proposals = replace(made, valid_rows=rows.name)
        flat = first_image(proposals, n).reshape(-1, 4, hint="rows").named("flat")
        graph.replace(old, flat.take(rows).named("kept").handle)


def _one_class_per_level(b: Builder, scores: Value, sizes: list[int]) -> Value:
    """[N, total] -> [N, total, levels]: each box has its score in its own level's column and none elsewhere."""
    if len(sizes) == 1:
        return scores.unsqueeze(2, hint="last").named("scores")
    own = np.zeros((1, sum(sizes), len(sizes)), bool)
    own[0, np.arange(sum(sizes)), np.repeat(np.arange(len(sizes)), sizes)] = True
    column = scores.unsqueeze(2, hint="last").named("column")
    return where(b.of(b.const("own_level", own)), column, constant("never", NEVER)).named("scores")
