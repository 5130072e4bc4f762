"""Selects each RPN level's best anchors first and decodes only those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import RPN, DetectorSpec, RPNLevel
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.emit.boxes import bounds, clip, columns, decode
from onnxgraft.passes.fix_input import first_image
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import ANCHORS, DECODED_BOXES, NORMALIZED_INPUT, Fact
from onnxgraft.pipeline.values import LevelValues

NEVER = -65536.0  # below what EfficientNMS_TRT gives to boxes under its threshold (-32768)
_LOWEST_LOGIT = -80.0  # sigmoid(-80) is still a positive float32: a proposal of score 0 is one that does not exist
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
            ctx.count("anchors decoded", level.topk)
            ctx.count("anchors left undecoded", len(anchors) - level.topk)
        ctx.values.levels = made


def _decode_level(
    graph: Graph, ctx: Context, rpn: RPN, level: RPNLevel, anchors: np.ndarray
) -> tuple[gs.Tensor, gs.Tensor]:
    n, k, a, h, w = ctx.batch, level.topk, level.anchors, level.height, level.width
    legacy = graph.tensor(level.selected_tensor)
    topk = next(node for node in graph.nodes if node.name == level.topk_node)
    b = Builder(graph, f"rpn/stride{level.stride}", [level.topk_node, legacy.inputs[0].name])
    logits = b.op(
        "Transpose",
        [graph.tensor(ctx.current(level.logits_tensor))],
        "by_location",
        shape=[n, h, w, a],
        perm=[0, 2, 3, 1],
    )
    logits = b.op("Reshape", [logits, b.ints("flat", [n, -1])], "logits", shape=[n, h * w * a])
    best, index = b.ops(
        "TopK", [logits, b.ints("k", [k])], [("best", np.float32, [n, k]), ("index", np.int64, [n, k])],
        axis=1, largest=1, sorted=1,
    )  # fmt: skip
    deltas = b.op("Reshape", [graph.tensor(level.deltas_tensor), b.ints("per_anchor", [n, a, 4, h, w])], "per_anchor",
                  shape=[n, a, 4, h, w])  # fmt: skip
    deltas = b.op("Transpose", [deltas], "deltas_by_location", shape=[n, h, w, a, 4], perm=[0, 3, 4, 1, 2])
    deltas = b.op("Reshape", [deltas, b.ints("flat_deltas", [n, -1, 4])], "deltas", shape=[n, h * w * a, 4])
    rows = b.op("Unsqueeze", [index, b.ints("last", [2])], "rows", dtype=np.int64, shape=[n, k, 1])
    deltas = b.op("GatherND", [deltas, rows], "selected_deltas", shape=[n, k, 4], batch_dims=1)
    selected = b.op("Gather", [b.const("anchors", anchors), index], "selected_anchors", shape=[n, k, 4], axis=0)
    decoded = decode(b, deltas, selected, rpn.coder, [n, k, 4], [n, k, 4])
    clipped = clip(b, decoded, bounds(b, ctx, 3), [n, k, 4])
    scores = _rule_out(b, decoded, clipped, best, rpn.min_box_size, [n, k])
    graph.replace(legacy, first_image(b, clipped, n))
    graph.replace(topk.outputs[0], first_image(b, scores, n))
    return clipped, scores


def _rule_out(
    b: Builder, decoded: gs.Tensor, clipped: gs.Tensor, best: gs.Tensor, side: float, shape: list[int]
) -> gs.Tensor:
    """find_top_rpn_proposals drops boxes that are not finite, and after clipping those with a side of at most `side`."""
    magnitude = b.op("Abs", [decoded], "magnitude", shape=[*shape, 4])
    largest = b.op("ReduceMax", [magnitude, b.ints("axes", [2])], "largest", shape=shape, keepdims=0)
    finite = b.op("Less", [largest, b.floats("huge", _LARGEST)], "finite", dtype=np.bool_, shape=shape)
    low, high = (columns(b, clipped, i, i + 2, hint, [*shape, 2]) for i, hint in ((0, "low"), (2, "high")))
    extent = b.op("Sub", [high, low], "extent", shape=[*shape, 2])
    smallest = b.op("ReduceMin", [extent, b.ints("axes", [2])], "smallest", shape=shape, keepdims=0)
    exists = b.op("Greater", [best, b.floats("absent", NEVER / 2)], "exists", dtype=np.bool_, shape=shape)
    nonempty = b.op("Greater", [smallest, b.floats("min_size", side)], "nonempty", dtype=np.bool_, shape=shape)
    valid = b.op("And", [finite, nonempty], "has_area", dtype=np.bool_, shape=shape)
    valid = b.op("And", [valid, exists], "valid", dtype=np.bool_, shape=shape)
    positive = b.op("Max", [best, b.floats("lowest", _LOWEST_LOGIT)], "bounded", shape=shape)
    return b.op("Where", [valid, positive, b.floats("never", NEVER)], "scores", shape=shape)
