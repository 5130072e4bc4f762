"""Gives a Fast R-CNN its proposals as a batched input of fixed size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.emit.boxes import columns
from onnxgraft.passes.fix_input import first_image
from onnxgraft.passes.rpn_nms import first_valid_rows
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NORMALIZED_INPUT, PROPOSALS, STATIC_INPUT, Fact
from onnxgraft.pipeline.values import ProposalValues

PROPOSALS_NAME = "proposals"


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
        low, high = columns(b, taken, 0, 2, "low", [n, p, 2]), columns(b, taken, 2, 4, "high", [n, p, 2])
        extent = b.op("Sub", [high, low], "extent", shape=[n, p, 2])
        smallest = b.op("ReduceMin", [extent, b.ints("axes", [2])], "smallest", shape=[n, p], keepdims=0)
        valid = b.op("Greater", [smallest, b.floats("empty", 0.0)], "valid", dtype=np.bool_, shape=[n, p])
        rows = first_valid_rows(b, valid, n)
        flat = b.op("Reshape", [first_image(b, taken, n), b.ints("rows", [-1, 4])], "flat", shape=[p, 4])
        graph.gs.inputs[:] = [taken if t is old else t for t in graph.gs.inputs]
        graph.replace(old, b.op("Gather", [flat, rows], "kept", shape=[f"{b.prefix}/rows", 4], axis=0))
        taken.name = PROPOSALS_NAME
        ctx.values.proposals = ProposalValues(PROPOSALS_NAME, valid.name, rows.name)
        ctx.io["proposals"] = [n, p, 4]
