"""Small questions about a graph's structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.ops import WITH_GRAPHS


def tensors(graph: gs.Graph) -> dict[str, gs.Tensor]:
    """All tensors of a graph by name, subgraphs' own excluded, as gs.Graph.tensors gives them: inputs first, then in the order
    of the nodes."""
    found: dict[str, gs.Tensor] = {}
    for tensor in graph.inputs:
        found[tensor.name] = tensor
    for node in graph.nodes:
        for tensor in node.inputs:
            found[tensor.name] = tensor
        for tensor in node.outputs:
            found[tensor.name] = tensor
    for tensor in graph.outputs:
        found[tensor.name] = tensor
    found.pop("", None)  # inputs that are left out
    return found


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes a tensor; None for constants and inputs."""
    return tensor.inputs[0] if tensor.inputs else None


def value(tensor: gs.Tensor) -> np.ndarray | None:
    """The value of a constant tensor (initializer, or Constant node of a subgraph) in its shape and dtype, or None."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    node = producer(tensor)
    if node is not None and node.op == "Constant":
        (held,) = node.attrs.values()
        return np.asarray(held.values if isinstance(held, gs.Constant) else held)
    return None


def scalar(tensor: gs.Tensor) -> float | None:
    """The single number in a constant tensor, or None."""
    held = value(tensor)
    return float(held.reshape(-1)[0]) if held is not None and held.size == 1 else None


def binary(node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """(the variable operand, the number) of a two-operand node with one constant of one element; else None."""
    if len(node.inputs) != 2:
        return None
    for index in (1, 0):
        number = scalar(node.inputs[index])
        if number is not None:
            return node.inputs[1 - index], number
    return None


def back_through(tensor: gs.Tensor, ops: Iterable[str]) -> gs.Tensor:
    """Follow first inputs upwards while the producer is one of `ops`."""
    allowed = set(ops)
    while (node := producer(tensor)) is not None and node.op in allowed:
        tensor = node.inputs[0]
    return tensor


def ancestors(tensor: gs.Tensor, stop: Mapping[int, Any] | None = None) -> Iterator[gs.Node]:
    """Nodes that a tensor depends on (subgraph captures included), nearest first; does not pass tensors in `stop`."""
    seen: set[int] = set()
    queue = [tensor]
    while queue:
        current = queue.pop(0)
        for node in current.inputs:
            if id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            queue += [t for t in node_inputs(node) if not (stop and id(t) in stop)]


def node_inputs(node: gs.Node) -> list[gs.Tensor]:
    """A node's inputs, with the outer tensors that its subgraphs read."""
    found = list(node.inputs)
    if node.op in WITH_GRAPHS or node.domain:
        for attribute in node.attrs.values():
            if isinstance(attribute, gs.Graph):
                found += attribute._foreign_tensors().values()
    return found


def first_ancestor(
    tensor: gs.Tensor, matches: Callable[[gs.Node], bool], stop: Iterable[gs.Tensor] = ()
) -> gs.Node | None:
    """The nearest node that `tensor` depends on and that matches; does not look past the tensors in `stop`."""
    barrier = {id(t): t for t in stop}
    if id(tensor) in barrier:
        return None
    return next((node for node in ancestors(tensor, barrier) if matches(node)), None)


def ancestors_before(tensor: gs.Tensor, ops: Iterable[str]) -> Iterator[gs.Node]:
    """Ancestors of a tensor, nearest first, without passing beyond nodes of the given ops (which are included)."""
    barrier, seen, queue = set(ops), set(), [tensor]
    while queue:
        node = producer(queue.pop(0))
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if node.op not in barrier:
            queue += node.inputs


def descendants(tensor: gs.Tensor) -> set[int]:
    """ids of all tensors that depend on `tensor`, itself included."""
    found, queue = {id(tensor)}, [tensor]
    while queue:
        for node in queue.pop().outputs:
            for output in node.outputs:
                if id(output) not in found:
                    found.add(id(output))
                    queue.append(output)
    return found


def contains_op(node: gs.Node, op: str) -> gs.Node | None:
    """The first node of kind `op` inside the subgraphs of `node`."""
    for held in node.attrs.values():
        if isinstance(held, gs.Graph):
            for inner in held.nodes:
                if inner.op == op:
                    return inner
                if (deeper := contains_op(inner, op)) is not None:
                    return deeper
    return None


def dims(tensor: gs.Tensor, rank: int, what: str) -> list[int]:
    """The static shape of a tensor, `rank` numbers; `what` names it in the message.

    Raises:
        Refusal: it has another rank or is not static.
    """
    shape = tensor.shape
    if shape is None or len(shape) != rank or not all(isinstance(d, (int, np.integer)) for d in shape):
        node = producer(tensor)
        raise Refusal(f"{what} should have {rank} fixed dimensions, has {shape}", node.name if node else tensor.name)
    return [int(d) for d in shape]
