"""Gives a Fast R-CNN its proposals as a batched input of fixed size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import constant
from onnxgraft.manifest import PROPOSALS_INPUT, TensorIO
from onnxgraft.passes.emit.boxes import shortest_side
from onnxgraft.passes.emit.rows import first_image, first_valid_rows
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NORMALIZED_INPUT, PROPOSALS, STATIC_INPUT, Fact
from onnxgraft.pipeline.values import ProposalValues


@dataclass(frozen=True, kw_only=True)
class TakeProposals(DetectorPass[str]):
    """Make the proposals of a Fast R-CNN the input [N, P, 4], in which rows without area stand for none.

    Legal when (1) the export takes proposals [R, 4] as its second input. P is fix-input's option; boxes are in pixels of
    the canvas. A detector that proposes its own boxes is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (STATIC_INPUT, NORMALIZED_INPUT)
    provides: ClassVar[tuple[Fact | str, ...]] = (PROPOSALS,)
    modifies: ClassVar[tuple[str, ...]] = ("inputs",)
    noun: ClassVar[str] = "input of proposals"

    @staticmethod
    def part(spec: DetectorSpec) -> str | None:
        return spec.proposals_input

    def rewrite(self, graph: Graph, ctx: Context, name: str) -> None:
        old = graph.tensor(name)
        n, p = ctx.batch, int(old.shape[0])
        taken = gs.Variable(graph.fresh("batched_proposals"), np.float32, [n, p, 4])
        b = Builder(graph, "proposals", [])
        boxes = b.of(taken)
        valid = (shortest_side(boxes) > constant("empty", 0.0)).named("valid")
        rows = first_valid_rows(b, valid, n)
        flat = first_image(boxes, n).reshape(-1, 4, hint="rows").named("flat")
        graph.gs.inputs[:] = [taken if t is old else t for t in graph.gs.inputs]
        graph.replace(old, flat.take(rows).named("kept").handle)
        taken.name = PROPOSALS_INPUT
        ctx.values.proposals = ProposalValues(PROPOSALS_INPUT, valid.name, rows.name)
        ctx.io = replace(ctx.io, proposals=TensorIO(PROPOSALS_INPUT, (n, p, 4)))
