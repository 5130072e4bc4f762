"""A pass that is a pattern, a check and a replacement."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnxgraft.ir.builder import Builder, tensor_of
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.pattern import Match, Op, Reject, match
from onnxgraft.ir.value import Value
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context


@dataclass(frozen=True, kw_only=True)
class Rewrite(Pass):
    """A pass that replaces each match of `pattern` by what `rewrite` builds."""

    pattern: ClassVar[Op]

    @abstractmethod
    def rewrite(self, match: Match, builder: Builder) -> Value | gs.Tensor:
        """Build what takes the match's place and return its value; the engine puts it there."""

    def check(self, match: Match) -> Reject | None:
        """Why a match does not qualify (`match.reject(reason)`), or None."""
        return None

    def run(self, graph: Graph, ctx: Context) -> None:
        misses: list[Reject] = []
        for node in list(graph.nodes):
            found = self.find(graph, node)
            if isinstance(found, Reject):
                misses.append(found)
            else:
                self._commit(graph, found)
                ctx.count("rewritten")
        closest = max(misses, key=lambda miss: miss.depth, default=None)
        if "rewritten" not in ctx.statistics and closest is not None and closest.depth:
            ctx.notes.append(f"{self.name()} matched nothing; closest miss: {closest}")

    def find(self, graph: Graph, node: gs.Node) -> Match | Reject:
        """The match that ends in a node, checked, or why there is none."""
        found = match(self.pattern, node)
        if isinstance(found, Reject):
            return found
        outputs = {id(t) for t in graph.gs.outputs}
        for inner in found.nodes[1:]:
            if any(id(t) in outputs for t in inner.outputs):
                return found.reject("its value is an output of the graph", inner)
        return self.check(found) or found

    def _commit(self, graph: Graph, found: Match) -> None:
        old = found.root.outputs[0]
        builder = Builder(graph, self.name(), [node.name for node in found.nodes])
        new = tensor_of(self.rewrite(found, builder))
        is_output = any(t is old for t in graph.gs.outputs)
        graph.replace(old, new)
        if is_output:
            old.name, new.name = graph.fresh(f"{old.name}/before"), old.name
        if new.dtype is None or new.shape is None:
            new.dtype, new.shape = new.dtype or old.dtype, new.shape or old.shape
