"""How far the nodes of a convolutional network look on a map: at one cell, at a window, or at the whole canvas."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.traverse import value

_POINTWISE = frozenset({
    "Abs", "Add", "BatchNormalization", "Cast", "Clip", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow",
    "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "Where",
})  # fmt: skip
_ALONG_CHANNELS = frozenset({"Concat", "LayerNormalization", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Slice",
                             "Softmax", "Split"})  # fmt: skip
_WHOLE_CANVAS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization"})
_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_RELATIVE = {"half_pixel", "pytorch_half_pixel", "asymmetric"}  # ways to place samples that the canvas does not change


class Reach(Enum):
    CELL = "one cell"
    WINDOW = "a window, zero outside"
    HIGHEST = "a window, of which the highest counts"
    EDGE = "a window, the edge repeated outside"


def reaches(nodes: Sequence[gs.Node]) -> dict[int, Reach]:
    """What each node of a network reads around a cell, by id.

    Args:
        nodes: in topological order; maps are [N, C, H, W], or [N, H, W, C] between two Transposes.

    Raises:
        Refusal: a node looks at the whole canvas, or it is not known how far it looks.
    """
    for node in nodes:  # named first: what leads to them (a GroupNorm's Reshape) says less
        if node.op in _WHOLE_CANVAS:
            raise _whole_canvas(node)
    channels_last: set[int] = set()
    found: dict[int, Reach] = {}
    for node in nodes:
        last = any(id(t) in channels_last for t in node.inputs)
        if node.op == "Transpose" and node.attrs.get("perm") in (_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST):
            last, known = node.attrs["perm"] == _TO_CHANNELS_LAST, Reach.CELL
        else:
            known = _reach(node, last)
        found[id(node)] = known
        if last:
            channels_last.update(id(t) for t in node.outputs)
    return found


def _reach(node: gs.Node, channels_last: bool) -> Reach:
    if node.op in _POINTWISE or _linear(node, channels_last) or _along_channels(node, channels_last):
        return Reach.CELL
    if node.op in ("Conv", "MaxPool") and not channels_last:
        one = max(node.attrs.get("kernel_shape", [1, 1])) == 1
        return Reach.CELL if one else Reach.WINDOW if node.op == "Conv" else Reach.HIGHEST
    if node.op == "DeformConv":
        return Reach.WINDOW
    if node.op == "ConvTranspose" and node.attrs.get("kernel_shape") == node.attrs.get("strides") and not any(
        node.attrs.get("pads", [])
    ):
        return Reach.CELL
    if node.op == "Resize" and not channels_last:
        return _resize(node)
    if node.op in _ALONG_CHANNELS:
        raise _whole_canvas(node)
    raise Refusal(f"how far this {node.op} looks on a map is not known, so the padding cannot be kept out", node.name)


def _whole_canvas(node: gs.Node) -> Refusal:
    return Refusal(f"this {node.op} reads the whole canvas, so the padding cannot be kept out", node.name)


def _linear(node: gs.Node, channels_last: bool) -> bool:
    """A linear layer over the channels of each cell."""
    weight = node.inputs[1] if node.op == "MatMul" else None
    return channels_last and isinstance(weight, gs.Constant) and len(weight.shape) == 2


def _along_channels(node: gs.Node, channels_last: bool) -> bool:
    if node.op not in _ALONG_CHANNELS:
        return False
    at = {"ReduceL2": 1, "ReduceMax": 1, "ReduceMean": 1, "ReduceSum": 1, "Slice": 3}.get(node.op)
    axes = node.attrs.get("axes", node.attrs.get("axis", -1 if node.op in ("LayerNormalization", "Softmax") else None))
    if axes is None and at is not None and len(node.inputs) > at:
        axes = value(node.inputs[at])
    if axes is None:
        return False
    channel = {3, -1} if channels_last else {1, -3}
    return {int(a) for a in np.atleast_1d(np.asarray(axes))} <= channel


def _resize(node: gs.Node) -> Reach:
    way = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    before, after = node.inputs[0].shape, node.outputs[0].shape
    whole = before and after and all(
        isinstance(a, int) and isinstance(b, int) and a % b == 0 for b, a in zip(before[2:], after[2:], strict=True)
    )
    if whole and node.attrs.get("mode", "nearest") == "nearest" and way in _RELATIVE:
        return Reach.CELL
    if whole and node.attrs.get("mode") == "linear" and way in _RELATIVE:
        return Reach.EDGE
    raise Refusal(f"this Resize ({node.attrs.get('mode', 'nearest')}, {way}) places its samples by the size of the canvas",
                  node.name)  # fmt: skip
