"""One way to write what exporters write in several: the forms that analyses read."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import producer, scalar, value

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_SWAPPED = {"Less": "Greater", "LessOrEqual": "GreaterOrEqual", "Greater": "Less", "GreaterOrEqual": "LessOrEqual"}
_LOSSLESS = {("float32", "float64"), ("float16", "float32"), ("float16", "float64"), ("int32", "int64"), ("uint8", "int32"),
             ("uint8", "int64"), ("uint8", "float32"), ("bool", "int32"), ("bool", "int64"), ("bool", "uint8")}  # fmt: skip


def normalise(graph: Graph) -> int:
    """Bring nodes of the main graph into the form that analyses read. Returns how many changed.

    What adds 0 or multiplies by 1, Dropout, and pairs of Transpose or Cast that undo each other go; a comparison has its
    constant second; Min and Max with constants are a Clip.
    """
    kept = {id(t) for t in graph.gs.outputs}
    changed = 0
    for node in list(graph.gs.nodes):
        if node.domain or not node.outputs or not node.inputs:
            continue
        same = None if id(node.outputs[0]) in kept else _same_value(node)
        if same is not None:
            graph.replace(node.outputs[0], same)
            node.outputs.clear()
        elif not (_swap(node) or _clip(node)):
            continue
        changed += 1
    if changed:
        graph.cleanup()
    return changed


def _same_value(node: gs.Node) -> gs.Tensor | None:
    """The tensor that a node only hands on, or None."""
    first = node.inputs[0]
    if node.op in _NEUTRAL:
        return _neutral(node)
    if node.op == "Dropout":
        training = len(node.inputs) > 2 and node.inputs[2].name and value(node.inputs[2]) is None
        unused = all(not t.outputs for t in node.outputs[1:])
        return first if unused and not training and not (len(node.inputs) > 2 and scalar(node.inputs[2])) else None
    before = producer(first)
    if before is None or before.op != node.op or before.domain or not before.inputs:
        return None
    if node.op == "Transpose" and "perm" in node.attrs and "perm" in before.attrs:
        both = np.array(before.attrs["perm"])[node.attrs["perm"]]
        return before.inputs[0] if np.array_equal(both, np.arange(len(both))) else None
    if node.op == "Cast":
        source = before.inputs[0]
        kinds = [onnx.helper.tensor_dtype_to_np_dtype(int(n.attrs["to"])).name for n in (before, node)]
        own = np.dtype(source.dtype).name if isinstance(source.dtype, (type, np.dtype)) else ""
        return source if own == kinds[1] and (own, kinds[0]) in _LOSSLESS else None
    return None


def _neutral(node: gs.Node) -> gs.Tensor | None:
    for index in (1, 0) if node.op in ("Add", "Mul") else (1,):
        tensor, held = node.inputs[1 - index], value(node.inputs[index])
        rank = len(tensor.shape) if tensor.shape is not None else 0
        plain = not isinstance(tensor, gs.Constant) and held is not None and held.size == 1 and held.ndim <= rank
        if plain and held is not None and float(held.reshape(-1)[0]) == _NEUTRAL[node.op]:
            return tensor
    return None


def _swap(node: gs.Node) -> bool:
    """Less(constant, x) is Greater(x, constant)."""
    if node.op not in _SWAPPED or scalar(node.inputs[0]) is None or scalar(node.inputs[1]) is not None:
        return False
    node.op = _SWAPPED[node.op]
    node.inputs = [node.inputs[1], node.inputs[0]]
    return True


def _clip(node: gs.Node) -> bool:
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
