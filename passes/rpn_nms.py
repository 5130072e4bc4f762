"""Suppresses proposals within each level by one EfficientNMS_TRT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import RPN, DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.options import Share
from onnxgraft.passes.decode_boxes import NEVER
from onnxgraft.passes.emit.boxes import just_above, set_outputs
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.passes.fix_input import first_image
from onnxgraft.pipeline.base import DetectorPass
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

    @staticmethod
    def part(spec: DetectorSpec) -> RPN | None:
        return spec.rpn

    def rewrite(self, graph: Graph, ctx: Context, rpn: RPN) -> None:
        n, levels = ctx.batch, ctx.values.levels
        total = sum(level.topk for level in rpn.levels)
        old = graph.tensor(rpn.proposals_tensor)
        b = Builder(graph, "rpn/nms", [node.name for node in old.inputs])
        boxes = b.op("Concat", [graph.tensor(level.boxes) for level in levels], "boxes",
                     shape=[n, total, 4], axis=1)  # fmt: skip
        scores = b.op("Concat", [graph.tensor(level.scores) for level in levels], "logits",
                      shape=[n, total], axis=1)  # fmt: skip
        per_class = _one_class_per_level(b, scores, [level.topk for level in rpn.levels], n, total)
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
        ctx.lowering[count.inputs[0].name] = lowering
        valid = b.op("Greater", [found, b.floats("none", 0.0)], "valid", dtype=np.bool_, shape=[n, rpn.post_nms_topk])
        made = ProposalValues(proposals.name, valid.name, count=count.name)
        ctx.values.proposals = made
        if ctx.spec().box_head is None:
            number = b.op("Cast", [valid], "valid_as_number", dtype=np.int32, shape=[n, rpn.post_nms_topk], to=6)
            number = b.op("ReduceSum", [number, b.ints("axes", [1])], "number", dtype=np.int32, shape=[n, 1], keepdims=1)
            results = {Role.NUM_DETECTIONS: number, Role.BOXES: proposals, Role.SCORES: found}
            ctx.values.results |= {role: tensor.name for role, tensor in results.items()}
            set_outputs(graph, ctx, [*results.values()])
            return
        rows = first_valid_rows(b, valid, n)
        ctx.values.proposals = replace(made, valid_rows=rows.name)
        flat = b.op(
            "Reshape", [first_image(b, proposals, n), b.ints("rows", [-1, 4])], "flat", shape=[rpn.post_nms_topk, 4]
        )
        kept = b.op("Gather", [flat, rows], "kept", shape=[f"{b.prefix}/rows", 4], axis=0)
        graph.replace(old, kept)


def _one_class_per_level(b: Builder, scores: gs.Tensor, sizes: list[int], n: int, total: int) -> gs.Tensor:
    """[N, total] -> [N, total, levels]: each box has its score in its own level's column and none elsewhere."""
    if len(sizes) == 1:
        return b.op("Unsqueeze", [scores, b.ints("last", [2])], "scores", shape=[n, total, 1])
    own = np.zeros((1, total, len(sizes)), bool)
    own[0, np.arange(total), np.repeat(np.arange(len(sizes)), sizes)] = True
    column = b.op("Unsqueeze", [scores, b.ints("last", [2])], "column", shape=[n, total, 1])
    return b.op(
        "Where", [b.const("own_level", own), column, b.floats("never", NEVER)], "scores", shape=[n, total, len(sizes)]
    )


def first_valid_rows(b: Builder, valid: gs.Tensor, n: int) -> gs.Tensor:
    """Row numbers of the first image's real proposals, for the part of the export that still takes a varying number."""
    first = first_image(b, valid, n)
    flat = b.op("Reshape", [first, b.ints("flat", [-1])], "first_valid", dtype=np.bool_)
    found = b.op("NonZero", [flat], "found", dtype=np.int64, shape=[1, f"{b.prefix}/rows"])
    return b.op("Squeeze", [found, b.ints("axis", [0])], "valid_rows", dtype=np.int64, shape=[f"{b.prefix}/rows"])
