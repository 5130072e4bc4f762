"""Folds what does not depend on the image's size and drops what nothing needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxgraft.analysis.canvas import read_canvas
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import SIMPLIFIED, Fact


@dataclass(frozen=True, kw_only=True)
class Simplify(Pass):
    """Fold constants, infer shapes, drop identities and dead code.

    Always legal. Shapes are not folded, so that the graph still fits an image of any size; weights are not read.
    """

    provides: ClassVar[tuple[Fact | str, ...]] = (SIMPLIFIED,)

    def run(self, graph: Graph, ctx: Context) -> None:
        canvas = read_canvas(graph)  # folding leaves nothing of it
        if canvas is not None:
            ctx.size_divisibility, ctx.only_size = canvas.divisor, canvas.only
        for what, count in settle(graph, shapes=False).items():
            ctx.count(what, count)
