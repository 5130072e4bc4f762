"""What counts as a change of a graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.ir.changes import changed
from onnxgraft.ir.exporting import PLUGIN_DOMAIN
from onnxgraft.ir.graph import Graph


def graph_of() -> Graph:
    x, y, z = gs.Variable("x", np.float32, [1, 4]), gs.Variable("y", np.float32, [1, 4]), gs.Variable("z", np.float32, [1, 4])
    held = gs.Constant("w", np.arange(4, dtype=np.float32))
    nodes = [gs.Node("Mul", "a", {}, [x, held], [y]), gs.Node("Elu", "b", {"alpha": 0.1}, [y], [z])]
    return Graph(gs.Graph(nodes, [x], [z], opset=19))


def _nothing(graph: Graph) -> None: ...


def _names(graph: Graph) -> None:
    graph.nodes[0].name = "another"
    graph.nodes[0].outputs[0].name = "another"
    graph.nodes[0].inputs[1].name = "one more"


def _attribute(graph: Graph) -> None:
    graph.nodes[1].attrs["alpha"] = 0.2


def _weight(graph: Graph) -> None:
    graph.nodes[0].inputs[1].values = np.arange(4, dtype=np.float32)[::-1]


def _shape(graph: Graph) -> None:
    graph.nodes[0].outputs[0].shape = None


def _wire(graph: Graph) -> None:
    graph.nodes[1].inputs[0] = graph.gs.inputs[0]


def _operator(graph: Graph) -> None:
    graph.nodes[0].op = "Add"


def _node(graph: Graph) -> None:
    y = graph.nodes[0].outputs[0]
    made = gs.Variable("made", np.float32, [1, 4])
    graph.nodes[1].inputs[0] = made
    graph.nodes.insert(1, gs.Node("Relu", "r", {}, [y], [made]))


def _output(graph: Graph) -> None:
    graph.gs.outputs[0].name = "result"


def _function(graph: Graph) -> None:
    graph.functions["F"] = onnx.FunctionProto(name="F", domain=PLUGIN_DOMAIN)


@pytest.mark.parametrize(
    ("change", "counts"),
    [(_nothing, False), (_names, False), (_attribute, True), (_weight, True), (_shape, True), (_wire, True), (_operator, True),
     (_node, True), (_output, True), (_function, True)],
)  # fmt: skip
def test_names_of_nodes_and_tensors_do_not_count(change: Callable[[Graph], None], counts: bool) -> None:
    graph = graph_of()
    before = graph.exported()
    change(graph)
    assert changed(before, graph.exported()) is counts
