"""Brings the graph to one opset, so that every other pass speaks one dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_graphsurgeon as gs
from onnx import version_converter

from onnxgraft.analysis.foreign import refuse_foreign
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.serde import Skeleton
from onnxgraft.ir.traverse import tensors
from onnxgraft.ir.weights import weight_of
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import OPSET, Fact


@dataclass(frozen=True, kw_only=True)
class UpgradeOpset(Pass):
    """Convert the graph to one ONNX opset.

    Legal when (1) ONNX's version converter knows every operator of the graph. A graph of a newer opset is left alone.
    """

    provides: ClassVar[tuple[Fact | str, ...]] = (OPSET,)

    version: int = 19

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return None if graph.gs.opset < self.version else f"the graph has opset {graph.gs.opset}"

    def portable(self) -> Pass:
        return UpgradeOpset()

    def run(self, graph: Graph, ctx: Context) -> None:
        refuse_foreign(graph)
        skeleton = graph.skeleton()
        try:
            converted = version_converter.convert_version(skeleton.model, self.version)
        except Exception as error:  # the converter raises whatever its C++ throws
            raise _refusal(graph, f"cannot convert opset {graph.gs.opset} to {self.version}", error) from None
        origins, functions = graph.origins, graph.functions
        upgraded = Graph.from_skeleton(Skeleton(converted, skeleton.weights))
        _keep_loaded(graph.gs, upgraded.gs)
        graph.gs = upgraded.gs
        graph.origins, graph.functions = origins, functions
        ctx.count("opsets", self.version - graph.source_opset)


def _refusal(graph: Graph, what: str, error: Exception) -> Refusal:
    """The converter does not say which node it failed on: an operator that ONNX does not know is the usual reason."""
    for node in graph.nodes:
        if not node.domain and not onnx.defs.has(node.op):
            return Refusal(f"{what}: ONNX has no operator {node.op!r}", node.name)
    return Refusal(f"{what}: {' '.join(str(error).split())[:200]}")


def _keep_loaded(old: gs.Graph, new: gs.Graph) -> None:
    """Weights that live in a file stay the same objects; nothing is copied."""
    before = tensors(old)
    for name, tensor in tensors(new).items():
        known = before.get(name)
        if isinstance(tensor, gs.Constant) and isinstance(known, gs.Constant) and weight_of(known) is not None:
            tensor._values = known._values
