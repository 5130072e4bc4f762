"""Checks after each pass that the graph is a valid ONNX model and keeps the compiler's own invariants."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import PassError
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import PassRecord
from onnxgraft.plugins import REGISTRY


class Verify(Instrument):
    """onnx checker, strict shape inference, and our invariants. On by default."""

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        problem = verify_graph(graph) if record.skipped is None else None
        if problem is not None:
            raise PassError(record.name, f"left a broken graph: {problem}")
        return record


def verify_graph(graph: Graph) -> str | None:
    """What is wrong with the graph, in one line that names the node; None when nothing is."""
    return _invariants(graph) or _onnx_problem(graph)


def _invariants(graph: Graph) -> str | None:
    if not graph.gs.outputs:
        return "it has no outputs"
    produced: dict[str, str] = {}
    names: set[str] = set()
    inputs = {id(t) for t in graph.gs.inputs}
    for node in graph.nodes:
        if not node.name or node.name in names:
            return f"node name {node.name!r} is missing or used twice"
        names.add(node.name)
        for tensor in node.outputs:
            if tensor.name and tensor.name in produced:
                return f"tensor {tensor.name!r} is made by nodes {produced[tensor.name]!r} and {node.name!r}"
            produced[tensor.name] = node.name
    seen: dict[str, int] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            if not tensor.name:
                continue
            if seen.setdefault(tensor.name, id(tensor)) != id(tensor):
                return f"two different tensors are called {tensor.name!r} (node {node.name!r})"
            if isinstance(tensor, gs.Variable) and not tensor.inputs and id(tensor) not in inputs:
                return f"node {node.name!r} reads tensor {tensor.name!r}, which nothing makes"
        if node.domain == PLUGIN_DOMAIN and (node.op not in REGISTRY or node.op not in graph.functions):
            return f"plugin node {node.name!r} of kind {node.op!r} has no definition"
    for tensor in graph.gs.outputs:
        if isinstance(tensor, gs.Variable) and not tensor.inputs and id(tensor) not in inputs:
            return f"output {tensor.name!r} is made by no node"
    return None


def _onnx_problem(graph: Graph) -> str | None:
    try:
        exported = graph.observed(Graph.exported)
    except Exception as error:
        return f"it cannot be written as ONNX: {_line(error)}"
    if any(node.op in REGISTRY and not node.domain for node in graph.nodes):
        return None  # handed over: the checker knows no TensorRT plugin in the default domain
    try:
        onnx.checker.check_model(exported.checkable(), full_check=True)  # types and strict shapes, too
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return _line(error)
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
