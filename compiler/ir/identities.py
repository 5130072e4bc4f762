"""Nodes that change nothing: consumers read what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph


def remove_identities(graph: Graph) -> int:
    """Let consumers read the input of Identity, of Concat of one, and of Casts that change nothing, in branches as well.

    Where one makes an output of the graph, what makes its input makes that output, so that there is one tensor of it.
    Returns the count.
    """
    count = _hand_out(graph)
    every = [graph.gs, *graph.subgraphs()]
    handed_out = {id(t) for held in every for t in held.outputs}
    gone = [n for held in every for n in held.nodes if _changes_nothing(n) and id(n.outputs[0]) not in handed_out]
    if not gone:
        return count
    sources = {id(node.outputs[0]): node.inputs[0] for node in gone}
    names = {id(node.outputs[0]): node.name for node in gone}

    def source(tensor: gs.Tensor) -> gs.Tensor:
        passed: list[int] = []
        while id(tensor) in sources:
            passed.append(id(tensor))
            if len(passed) > len(sources):
                raise Refusal("the graph has a cycle", names[id(tensor)])
            tensor = sources[id(tensor)]
        sources.update(dict.fromkeys(passed, tensor))  # so that a long chain is walked once
        return tensor

    dead = {id(node) for node in gone}
    for held in every:
        for node in held.nodes:
            if id(node) not in dead:
                _redirect(node.inputs, sources, source)
        _redirect(held.outputs, sources, source)
    for node in gone:
        node.outputs.clear()
    for held in every:
        sweep(held)
    return count + len(gone)


def _redirect(tensors: list[gs.Tensor], sources: Mapping[int, gs.Tensor], source: Callable[[gs.Tensor], gs.Tensor]) -> None:
    for index, tensor in enumerate(tensors):
        if id(tensor) in sources:
            tensors[index] = source(tensor)


def _changes_nothing(node: gs.Node) -> bool:
    if node.domain or len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    if node.op in ("Identity", "Concat"):
        return True
    dtype = node.inputs[0].dtype
    if node.op != "Cast" or dtype is None or isinstance(dtype, int):
        return False
    return bool(np.dtype(dtype) == onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"])))


def _hand_out(graph: Graph) -> int:
    """Outputs that a node of the graph itself makes, and that nothing else hands out, are made by it under their own name."""
    count, every = 0, [graph.gs, *graph.subgraphs()]
    while True:
        handed_out = {id(t) for held in every for t in held.outputs}
        own, within = {id(t) for t in graph.gs.outputs}, {id(node) for node in graph.gs.nodes}
        for node in graph.gs.nodes:
            if not _changes_nothing(node) or id(node.outputs[0]) not in own:
                continue
            made, out = node.inputs[0], node.outputs[0]
            if id(made) in handed_out or len(made.inputs) != 1 or id(made.inputs[0]) not in within:
                continue  # an input, a constant, an output too
            maker = made.inputs[0]
            index = next(i for i, t in enumerate(maker.outputs) if t is made)
            node.outputs.clear()
            node.inputs.clear()
            graph.replace(made, out)
            maker.outputs[index] = out
            out.dtype, out.shape = out.dtype or made.dtype, made.shape if out.shape is None else out.shape
            break
        else:
            return count
        count += 1
        sweep(graph.gs)


def sweep(graph: gs.Graph) -> None:
    """Drop nodes that lost all their outputs, so that no tensor counts them among its consumers."""
    for node in graph.nodes:
        if not node.outputs:
            node.inputs.clear()
    graph.nodes[:] = [node for node in graph.nodes if node.outputs]
