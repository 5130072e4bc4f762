"""Small questions about a graph's structure, shared by all analyses."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.ops import RESHAPING, SELECTING
from onnxgraft.ir.traverse import (
    ancestors_before,
    back_through,
    contains_op,
    first_ancestor,
    node_inputs,
    producer,
    scalar,
    value,
)

# detector_postprocess on boxes: scaled by 1 in place, clipped.
POSTPROCESSING = frozenset({"Clip", "Min", "Max", "ScatterND"})
_UNBOUNDED = 1e6  # what torchvision's exporter gives NonMaxSuppression is the largest int64
_CANDIDATES = frozenset({"Gather", "GatherND", "NonZero", "TopK"})  # what picks the boxes that are suppressed


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
        refuse_order(node, what)
        queue += node.inputs if node.op == "Concat" else node.inputs[:1]


def refuse_order(node: gs.Node, what: str) -> None:
    """Hold that a node which selects by constants takes one column, or all of them in order.

    Raises:
        Refusal: constant indices out of order, or a Slice that steps backwards or over rows.
    """
    if node.op in ("Gather", "GatherND", "GatherElements") and len(node.inputs) > 1:
        index = value(node.inputs[1])
        if index is not None and index.size > 1 and not np.array_equal(index.reshape(-1), np.arange(index.size)):
            order = index.reshape(-1)[:8].tolist()
            raise Refusal(f"the {what} are taken in the order {order}; detectron2 keeps theirs", node.name)
    if node.op == "Slice" and len(node.inputs) > 4 and (steps := value(node.inputs[4])) is not None and (steps < 0).any():
        raise Refusal(f"the {what} are reversed here (step {int(steps.min())})", node.name)


def selected_from(tensor: gs.Tensor) -> dict[int, gs.Tensor]:
    """The tensors whose values `tensor` selects and reshapes, itself included, by id."""
    found: dict[int, gs.Tensor] = {}
    while True:
        found[id(tensor)] = tensor
        node = producer(tensor)
        if node is None or node.op not in RESHAPING | SELECTING:
            return found
        tensor = node.inputs[0]


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
    """The IoU threshold of a suppression that does nothing else: corners, no score threshold, no bound on its results.

    Raises:
        Refusal: it does, or its threshold is not a constant.
    """
    number = scalar(nms.inputs[3]) if len(nms.inputs) > 3 else None
    if number is None:
        raise Refusal("the IoU threshold of this NonMaxSuppression is not a constant", nms.name)
    if nms.attrs.get("center_point_box", 0):
        raise Refusal("this NonMaxSuppression takes boxes as centre and size; detectron2 gives corners", nms.name)
    most = scalar(nms.inputs[2])
    if most is not None and most < _UNBOUNDED:
        raise Refusal(f"this NonMaxSuppression gives out {most:.0f} boxes at most; detectron2 bounds its results afterwards",
                      nms.name)  # fmt: skip
    least = scalar(nms.inputs[4]) if len(nms.inputs) > 4 else None
    if least is not None and least > 0:
        raise Refusal(f"this NonMaxSuppression drops scores up to {least:.4g}; detectron2 compares scores before it", nms.name)
    return round(number, 6)


def kept_after(node: gs.Node) -> int:
    """How many results the Slice behind an NMS keeps: the first ones, in order.

    Raises:
        Refusal: no Slice, or one that starts later, steps, or cuts another axis.
    """
    queue = list(node.outputs)
    for _ in range(12):
        following = [consumer for tensor in queue for consumer in tensor.outputs]
        for consumer in following:
            if consumer.op == "Slice" and (ends := value(consumer.inputs[2])) is not None and ends.size == 1:
                _refuse_gaps(consumer)
                return int(ends.reshape(-1)[0])
        queue = [t for c in following if c.op in RESHAPING | {"Gather"} for t in c.outputs]
    raise Refusal("no Slice limits the results of this non-maximum suppression", node.name)


def _refuse_gaps(cut: gs.Node) -> None:
    for position, expected, what in ((1, 0, "starts at"), (3, 0, "cuts axis"), (4, 1, "steps by")):
        held = value(cut.inputs[position]) if len(cut.inputs) > position and cut.inputs[position].name else None
        if held is not None and int(held.reshape(-1)[0]) != expected:
            raise Refusal(f"this Slice {what} {int(held.reshape(-1)[0])} of the suppression's results; detectron2 takes the "
                          "first ones", cut.name)  # fmt: skip


def just_below(number: float) -> float:
    """The float32 before a number: to exceed it is to be at least that number."""
    return float(np.nextafter(np.float32(number), np.float32(-np.inf)))


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


