"""Passes that do what passes must not: each is to be caught, named and left reproducible."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft import Context, Graph, Pass


@dataclass(frozen=True, kw_only=True)
class Throws(Pass):
    """Divide by zero."""

    def run(self, graph: Graph, ctx: Context) -> None:
        _ = 1 // len([])


@dataclass(frozen=True, kw_only=True)
class Lies(Pass):
    """Promise a static input and leave it free."""

    provides: ClassVar[tuple[str, ...]] = ("static-input",)

    def run(self, graph: Graph, ctx: Context) -> None:
        graph.gs.inputs[0].shape = ["n", 3, 8, 8]


@dataclass(frozen=True, kw_only=True)
class Cycle(Pass):
    """Feed a node its own result."""

    def run(self, graph: Graph, ctx: Context) -> None:
        relu = next(node for node in graph.nodes if node.op == "Relu")
        conv = next(node for node in graph.nodes if node.op == "Conv")
        conv.inputs[0] = relu.outputs[0]


@dataclass(frozen=True, kw_only=True)
class Dangling(Pass):
    """Read a tensor that nothing makes."""

    def run(self, graph: Graph, ctx: Context) -> None:
        next(node for node in graph.nodes if node.op == "Relu").inputs[0] = gs.Variable("nowhere", np.float32)


@dataclass(frozen=True, kw_only=True)
class DuplicateName(Pass):
    """Give two tensors one name."""

    def run(self, graph: Graph, ctx: Context) -> None:
        conv = next(node for node in graph.nodes if node.op == "Conv")
        conv.outputs[0].name = next(node for node in graph.nodes if node.op == "Relu").outputs[0].name


@dataclass(frozen=True, kw_only=True)
class WrongDtype(Pass):
    """Let a convolution read integers."""

    def run(self, graph: Graph, ctx: Context) -> None:
        conv = next(node for node in graph.nodes if node.op == "Conv")
        cast = gs.Variable("integers", np.int64, conv.inputs[0].shape)
        graph.gs.nodes.append(gs.Node("Cast", "to_int", {"to": 7}, [conv.inputs[0]], [cast]))
        conv.inputs[0] = cast


@dataclass(frozen=True, kw_only=True)
class DeletesOutput(Pass):
    """Lose the last output."""

    def run(self, graph: Graph, ctx: Context) -> None:
        del graph.gs.outputs[-1]


@dataclass(frozen=True, kw_only=True)
class ChangesWeight(Pass):
    """Scale a weight and say nothing."""

    def run(self, graph: Graph, ctx: Context) -> None:
        conv = next(node for node in graph.nodes if node.op == "Conv")
        conv.inputs[1].values = np.asarray(conv.inputs[1].values) * np.float32(1.001)


@dataclass(frozen=True, kw_only=True)
class Flips(Pass):
    """Turn Relu into Sigmoid, or back: never at rest."""

    def run(self, graph: Graph, ctx: Context) -> None:
        for node in graph.nodes:
            node.op = {"Relu": "Sigmoid", "Sigmoid": "Relu"}.get(node.op, node.op)


@dataclass(frozen=True, kw_only=True)
class NothingAtAll(Pass):
    """Do nothing."""

    def run(self, graph: Graph, ctx: Context) -> None:
        pass
