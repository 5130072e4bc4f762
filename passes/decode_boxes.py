"""Selects each RPN level's best anchors first and decodes only those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxgraft.detector.spec import RPN, DetectorSpec, RPNLevel
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Value, concat, constant, where
from onnxgraft.passes.emit.boxes import clip, decode, shortest_side
from onnxgraft.passes.emit.rows import by_location, first_image, largest, rows_of
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import ANCHORS, DECODED_BOXES, NORMALIZED_INPUT, Fact
from onnxgraft.pipeline.values import LevelValues

NEVER = -65536.0
"""The logit of a proposal that does not exist."""
ABSENT = NEVER / 2
"""What a logit must exceed to be one."""
_LARGEST = 3.0e38


@dataclass(frozen=True, kw_only=True)
class DecodeBoxes(DetectorPass[RPN]):
    """Per level: top-k by objectness, decode with the scale clamp, clip to the image, rule out empty boxes.

    Legal when (1) anchors are constants and (2) every level has a TopK of its own. The export decodes every anchor and
    selects afterwards; the result is the same, the work a fraction. A detector without an RPN is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (ANCHORS, NORMALIZED_INPUT)
    provides: ClassVar[tuple[Fact | str, ...]] = (DECODED_BOXES,)
    noun: ClassVar[str] = "RPN"

    @staticmethod
    def part(spec: DetectorSpec) -> RPN | None:
        return spec.rpn

    def rewrite(self, graph: Graph, ctx: Context, rpn: RPN) -> None:
        made: list[LevelValues] = []
        for level, anchors in zip(rpn.levels, ctx.anchors, strict=True):
            boxes, scores = _decode_level(graph, ctx, rpn, level, anchors)
            made.append(LevelValues(boxes.name, scores.name))
            if rpn.joined_logits_tensor is None:
                topk = next(node for node in graph.nodes if node.name == level.topk_node)
                graph.replace(graph.tensor(level.selected_tensor), first_image(boxes, ctx.batch).handle)
                graph.replace(topk.outputs[0], first_image(scores, ctx.batch).handle)
            ctx.count("anchors decoded", level.topk)
            ctx.count("anchors left undecoded", len(anchors) - level.topk)
        ctx.values.levels = made
        if rpn.joined_logits_tensor is not None:
            _select_together(graph, ctx, rpn.levels[0].selected_tensor, rpn.joined_logits_tensor)


def _decode_level(graph: Graph, ctx: Context, rpn: RPN, level: RPNLevel, anchors: np.ndarray) -> tuple[Value, Value]:
    """(boxes [N, k, 4], scores [N, k]) of one level, best first."""
    n, k = ctx.batch, level.topk
    b = Builder(graph, f"rpn/stride{level.stride}", [level.topk_node, graph.tensor(level.selected_tensor).inputs[0].name])
    logits = b.of(ctx.current(level.logits_tensor)).transpose(0, 2, 3, 1).named("by_location")
    best, index = largest(logits.reshape(n, -1, hint="flat").named("logits"), k, ("best", "index"))
    names = ("per_anchor", "deltas_by_location", "deltas")
    deltas = by_location(b.of(level.deltas_tensor), n, level, 4, names, "flat_deltas")
    deltas = rows_of(deltas, index, ("rows", "selected_deltas"))
    selected = b.of(b.const("anchors", anchors)).take(index).named("selected_anchors")
    decoded = decode(deltas, selected, rpn.coder)
    clipped = clip(b, ctx, decoded)
    scores = _rule_out(decoded, clipped, best, rpn.min_box_size)
    return clipped, scores


def _select_together(graph: Graph, ctx: Context, selected: str, logits: str) -> None:
    """Give the export, which selects the candidates of all levels together, those of the first image."""
    for name, column in ((selected, "boxes"), (logits, "scores")):
        old = graph.tensor(name)
        b = Builder(graph, "rpn/joined", [old.inputs[0].name])
        levels = [first_image(b.of(getattr(level, column)), ctx.batch) for level in ctx.values.levels]
        joined = concat(*levels, axis=1).named(f"{column}_of_levels") if len(levels) > 1 else levels[0]
        shape = [int(d) for d in old.shape]
        graph.replace(old, joined.reshape(*shape, hint="as_selected").named(f"selected_{column}").handle)


def _rule_out(decoded: Value, clipped: Value, best: Value, side: float) -> Value:
    """find_top_rpn_proposals drops boxes that are not finite, and after clipping those with a side of at most `side`."""
    largest_coordinate = decoded.abs().named("magnitude").amax(2).named("largest")
    finite = (largest_coordinate < constant("huge", _LARGEST)).named("finite")
    smallest = shortest_side(clipped)
    exists = (best > constant("absent", ABSENT)).named("exists")
    nonempty = (smallest > constant("min_size", float(side))).named("nonempty")
    valid = ((finite & nonempty).named("has_area") & exists).named("valid")
    return where(valid, best, constant("never", NEVER)).named("scores")
