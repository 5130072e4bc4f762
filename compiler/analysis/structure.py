"""Small questions about a graph's structure, shared by all analyses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.graph import ancestors, node_inputs

RESHAPING = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast"})
SELECTING = frozenset({"Gather", "GatherND", "GatherElements", "Slice", "Split", "Expand"})
# detector_postprocess on boxes: scaled by 1 in place, clipped.
POSTPROCESSING = frozenset({"Clip", "Min", "Max", "ScatterND"})
_CANDIDATES = frozenset({"Gather", "GatherND", "NonZero", "TopK"})  # what picks the boxes that are suppressed


def producer(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None


def value(tensor: gs.Tensor) -> np.ndarray | None:
    """The value of a constant tensor (initializer, or Constant node of a subgraph), or None."""
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
    """(the variable operand, the constant operand) of a two-operand node with one scalar constant."""
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


def refuse_change(
    tensor: gs.Tensor, source: Callable[[gs.Tensor], bool], what: str, also: frozenset[str] = frozenset()
) -> None:
    """Hold that the values of `tensor` are those of its sources, only selected, joined and reshaped (or passed by `also`).

    Raises:
        Refusal: names the node that makes other values of them.
    """
    queue, seen = [tensor], set()
    while queue:
        current = queue.pop(0)
        if id(current) in seen or source(current):
            continue
        seen.add(id(current))
        node = producer(current)
        if node is None or node.op not in RESHAPING | SELECTING | {"Concat"} | also:
            made = f"a {node.op} makes" if node is not None else "an input is"
            reason = f"{made} the {what}, where detectron2 only selects and reshapes them"
            raise Refusal(reason, node.name if node else current.name)
        queue += node.inputs if node.op == "Concat" else node.inputs[:1]


def selected_from(tensor: gs.Tensor) -> dict[int, gs.Tensor]:
    """The tensors whose values `tensor` selects and reshapes, itself included, by id."""
    found: dict[int, gs.Tensor] = {}
    while True:
        found[id(tensor)] = tensor
        node = producer(tensor)
        if node is None or node.op not in RESHAPING | SELECTING:
            return found
        tensor = node.inputs[0]


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


def nms_of(tensor: gs.Tensor, stop: Iterable[gs.Tensor] = ()) -> tuple[gs.Node, gs.Node] | None:
    """(node of the main graph, NonMaxSuppression node inside it or itself) that `tensor` depends on most nearly."""
    node = first_ancestor(
        tensor, lambda n: n.op == "NonMaxSuppression" or contains_op(n, "NonMaxSuppression") is not None, stop
    )
    if node is None:
        return None
    return node, node if node.op == "NonMaxSuppression" else contains_op(node, "NonMaxSuppression") or node


def refuse_mixed_classes(nms: gs.Node, classes: gs.Tensor) -> None:
    """Hold that boxes of different `classes` do not suppress one another: the class of each box enters the suppression.

    Raises:
        Refusal: the suppression knows the boxes and scores alone.
    """
    origin = _origin(classes)
    read = list(node_inputs(nms))
    read += [t for entering in read for node in ancestors_before(entering, _CANDIDATES) for t in node.outputs]
    numbers = [t for t in read if t.dtype is not None and np.issubdtype(np.dtype(t.dtype), np.integer)]
    if not any(len(t.shape or ()) == 1 and _origin(t) is origin for t in numbers):
        raise Refusal("boxes of different classes suppress one another here; detectron2 keeps classes apart", nms.name)


def _origin(tensor: gs.Tensor) -> gs.Tensor:
    return back_through(tensor, RESHAPING | SELECTING)


def iou_threshold(nms: gs.Node) -> float:
    number = scalar(nms.inputs[3]) if len(nms.inputs) > 3 else None
    if number is None:
        raise Refusal("the IoU threshold of this NonMaxSuppression is not a constant", nms.name)
    return round(number, 6)


def kept_after(node: gs.Node) -> int:
    """How many results the Slice behind an NMS keeps."""
    queue = list(node.outputs)
    for _ in range(12):
        following = [consumer for tensor in queue for consumer in tensor.outputs]
        for consumer in following:
            if consumer.op == "Slice" and (ends := value(consumer.inputs[2])) is not None and ends.size == 1:
                return int(ends.reshape(-1)[0])
        queue = [t for c in following if c.op in RESHAPING | {"Gather"} for t in c.outputs]
    raise Refusal("no Slice limits the results of this non-maximum suppression", node.name)


def scalars_near(tensor: gs.Tensor, barrier: Iterable[str]) -> list[float]:
    """All scalar constants in the neighbourhood of a tensor, up to the barrier ops."""
    return [n for node in ancestors_before(tensor, barrier) for t in node.inputs if (n := scalar(t)) is not None]


def snap(measured: float, candidates: Iterable[float], tolerance: float = 2e-4) -> float | None:
    """The constant of the graph (or its reciprocal) that explains a measured number, or None."""
    best: tuple[float, float] | None = None
    for candidate in [*candidates, 1.0]:
        for number in (candidate, 1.0 / candidate) if candidate else ():
            error = abs(number - measured) / max(abs(measured), 1e-12)
            if error < tolerance and (best is None or error < best[0]):
                best = error, number
    return None if best is None else best[1]


def dims(tensor: gs.Tensor, rank: int, what: str) -> list[int]:
    """The static shape of a tensor. Raises Refusal when it has another rank or is not static."""
    shape = tensor.shape
    if shape is None or len(shape) != rank or not all(isinstance(d, (int, np.integer)) for d in shape):
        node = producer(tensor)
        raise Refusal(f"{what} should have {rank} fixed dimensions, has {shape}", node.name if node else tensor.name)
    return [int(d) for d in shape]
