"""One way to write what exporters write in several: the forms that analyses read."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.graph import Graph
from onnxgraft.ir.identities import sweep
from onnxgraft.ir.neutral import same_value
from onnxgraft.ir.ops import RANDOM
from onnxgraft.ir.traverse import producer, scalar, value

_SWAPPED = {"Less": "Greater", "LessOrEqual": "GreaterOrEqual", "Greater": "Less", "GreaterOrEqual": "LessOrEqual"}
_SMALL = 64  # elements of a constant that is compared by value
_OPPOSITE = {"Less": "GreaterOrEqual", "LessOrEqual": "Greater", "Greater": "LessOrEqual", "GreaterOrEqual": "Less"}


def normalise(graph: Graph, rare: bool = False) -> int:
    """Bring nodes into the form that analyses read. Returns how many changed.

    What only hands on its input goes, in branches as well (see neutral.py); in the main graph a comparison has its constant
    second, and Min and Max with constants are a Clip.

    Args:
        rare: also what exporters seldom write: a Not of a comparison is the opposite one, Max with 0 a Relu, one column is
            taken by a Gather, a Conv adds its bias itself, axes count from the start, nothing is computed twice.
    """
    every = [graph.gs, *graph.subgraphs()]
    kept = {id(t) for held in every for t in held.outputs}
    changed = 0
    for held in every:
        for node in list(held.nodes):
            if node.domain or not node.outputs or not node.inputs:
                continue
            same = same_value(node, rare)
            if same is not None and id(node.outputs[0]) in kept:
                node.op, node.attrs, node.inputs = "Identity", {}, [same]
            elif same is not None:
                graph.replace(node.outputs[0], same)
                node.outputs.clear()
            elif held is not graph.gs or not any(rule(graph, node) for rule in (_USUAL + _RARE if rare else _USUAL)):
                continue
            changed += 1
    changed += _merge_twins(graph, kept) if rare else 0
    if changed:
        for held in every:
            sweep(held)
        graph.cleanup()
    return changed


def _merge_twins(graph: Graph, kept: set[int]) -> int:
    """Let what is computed twice be computed once. Returns how many nodes went."""
    first: dict[tuple[object, ...], gs.Node] = {}
    merged = 0
    for node in list(graph.nodes):
        inner = any(isinstance(held, (gs.Graph, gs.Constant)) for held in node.attrs.values())
        if node.domain or inner or node.op in RANDOM or any(id(t) in kept for t in node.outputs) or not node.inputs:
            continue
        key = (node.op, len(node.outputs), str(sorted(node.attrs.items(), key=str)), *map(_identity, node.inputs))
        twin = first.setdefault(key, node)
        if twin is not node:
            for mine, theirs in zip(node.outputs, twin.outputs, strict=True):
                graph.replace(mine, theirs)
            node.outputs.clear()
            merged += 1
    return merged


def _identity(tensor: gs.Tensor) -> object:
    """Equal for tensors that are the same: small constants by value."""
    if not tensor.name:
        return ""
    held = value(tensor) if isinstance(tensor, gs.Constant) and np.prod(tensor.shape) <= _SMALL else None
    return id(tensor) if held is None else (str(held.dtype), held.shape, held.tobytes())


def _swap(graph: Graph, node: gs.Node) -> bool:
    """Less(constant, x) is Greater(x, constant)."""
    if node.op not in _SWAPPED or scalar(node.inputs[0]) is None or scalar(node.inputs[1]) is not None:
        return False
    node.op = _SWAPPED[node.op]
    node.inputs = [node.inputs[1], node.inputs[0]]
    return True


def _clip(graph: Graph, node: gs.Node) -> bool:
    """Min(Max(x, low), high), either way round, of constants with low <= high, is Clip(x, low, high)."""
    outer = _bounded(node)
    inner = _bounded(producer(outer[0])) if outer is not None else None
    before = producer(outer[0]) if outer is not None else None
    if outer is None or inner is None or before is None or before.op == node.op or len(before.outputs[0].outputs) != 1:
        return False
    bounds = {before.op: inner[1], node.op: outer[1]}
    low, high = bounds["Max"], bounds["Min"]
    if not np.asarray(value(low)).item() <= np.asarray(value(high)).item():
        return False
    node.op = "Clip"
    node.inputs = [inner[0], *(gs.Constant(f"{t.name}_of_{node.name}", np.asarray(value(t)).reshape(())) for t in (low, high))]
    return True


def _bounded(node: gs.Node | None) -> tuple[gs.Tensor, gs.Tensor] | None:
    """(x, the constant) of a Min or Max of floating numbers with one scalar constant."""
    if node is None or node.op not in ("Min", "Max") or len(node.inputs) != 2:
        return None
    for index in (1, 0):
        held = value(node.inputs[index])
        tensor = node.inputs[1 - index]
        if isinstance(tensor, gs.Constant) or held is None:
            continue
        if held.size == 1 and np.issubdtype(held.dtype, np.floating):
            return tensor, node.inputs[index]
    return None


def _opposite(graph: Graph, node: gs.Node) -> bool:
    """Not(x <= t) is x > t."""
    before = producer(node.inputs[0]) if node.op == "Not" else None
    if before is None or before.op not in _OPPOSITE or len(before.outputs[0].outputs) != 1:
        return False
    node.op, node.inputs = _OPPOSITE[before.op], list(before.inputs)
    return True


def _relu(graph: Graph, node: gs.Node) -> bool:
    """Max(x, 0) is Relu(x), where no Min bounds it as well."""
    bounded = _bounded(node) if node.op == "Max" else None
    if bounded is None or scalar(bounded[1]) != 0 or any(n.op == "Min" for n in node.outputs[0].outputs):
        return False
    plain = bounded[0].shape is not None and np.asarray(value(bounded[1])).ndim <= len(bounded[0].shape)
    if plain:
        node.op, node.inputs = "Relu", [bounded[0]]
    return plain


def _column(graph: Graph, node: gs.Node) -> bool:
    """Squeeze(x[i:i+1]) along an axis is Gather(x, i)."""
    cut = producer(node.inputs[0]) if node.op == "Squeeze" and len(node.inputs) > 1 else None
    if cut is None or cut.op != "Slice" or not 4 <= len(cut.inputs) <= 5 or len(cut.outputs[0].outputs) != 1:
        return False
    held = [value(t) for t in (*cut.inputs[1:], node.inputs[1])]
    if any(h is None or h.size != 1 for h in held):
        return False
    start, end, axis, *step, gone = (int(np.asarray(h).reshape(-1)[0]) for h in held)
    if start < 0 or end != start + 1 or axis != gone or step not in ([], [1]):
        return False
    index = gs.Constant(graph.fresh(f"{node.name}/column"), np.array(start, np.int64))
    node.op, node.attrs, node.inputs = "Gather", {"axis": axis}, [cut.inputs[0], index]
    return True


def _bias(graph: Graph, node: gs.Node) -> bool:
    """Conv(x) + b of each channel is Conv(x, b)."""
    if node.op != "Add":
        return False
    for index in (0, 1):
        conv, held = producer(node.inputs[index]), value(node.inputs[1 - index])
        if conv is None or conv.op != "Conv" or len(conv.inputs) > 2 or held is None or len(conv.outputs[0].outputs) != 1:
            continue
        channels = (conv.inputs[1].shape or [0])[0]
        if held.shape in ((1, channels, 1, 1), (channels, 1, 1)) and held.dtype == np.float32:
            bias = gs.Constant(graph.fresh(f"{node.name}/bias"), held.reshape(-1))
            node.op, node.attrs, node.inputs = "Conv", dict(conv.attrs), [*conv.inputs, bias]
            return True
    return False


def _axis(graph: Graph, node: gs.Node) -> bool:
    """An axis counted from the end is counted from the start."""
    tensor = node.inputs[0] if node.op == "Gather" else node.outputs[0] if node.op == "Concat" else None
    axis = node.attrs.get("axis", 0)
    if tensor is None or not isinstance(axis, int) or axis >= 0 or not tensor.shape:
        return False
    node.attrs["axis"] = axis + len(tensor.shape)
    return True


_USUAL = _swap, _clip
_RARE = _axis, _opposite, _relu, _column, _bias
