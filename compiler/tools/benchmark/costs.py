"""Multiply-adds and bytes of every node of a compiled graph: what a GPU has to do at least, however it is programmed.

A layer with weights reads its input and weights and writes its output; activations, normalisation, casts and Q/DQ pairs are
part of it, a skip connection adds what it reads. Other nodes of the network read and write. Outside the network (selection,
decoding, suppression, pooling) arithmetic is fused into what reads it, and a body of a loop works in the cache: only what it
gathers is read from memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.ir.ops import RESHAPING, SELECTING, WEIGHTED
from onnxgraft.ir.traverse import producer

_FREE = (RESHAPING - {"Transpose"}) | {"Constant", "Shape", "ConstantOfShape"}
_FUSED = frozenset({
    "Relu", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Clip", "BatchNormalization", "QuantizeLinear",
    "DequantizeLinear", "Cast",
})  # fmt: skip
_ARITHMETIC = frozenset({
    "Add", "Sub", "Mul", "Div", "Max", "Min", "Abs", "Neg", "Exp", "Log", "Sqrt", "Floor", "Ceil", "Sigmoid", "Relu", "Where",
    "And", "Or", "Not", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "Cast", "Mod", "Expand",
})  # fmt: skip
_QUANTIZED = "QLinearConv"
_WEIGHTED = WEIGHTED | {_QUANTIZED, "ModulatedDeformConv2d"}
_WEIGHT_AT = {_QUANTIZED: 3, "ModulatedDeformConv2d": 3}
_BY_WEIGHT_ROWS = frozenset({"Conv", _QUANTIZED, "ModulatedDeformConv2d"})


@dataclass(frozen=True)
class Cost:
    """Of one node, for all times that it runs. type: what its multiply-adds are computed in; weighted: whether it is a layer
    with weights."""

    node: str
    type: str
    macs: float
    size: float
    weighted: bool


def costs(
    graph: gs.Graph, network: frozenset[str] | set[str], times: Mapping[str, int], runs: int = 1, cached: bool = False
) -> Iterator[Cost]:
    """Of every node, bodies of loops included.

    Args:
        graph: with shapes.
        network: names of the nodes between the image and the heads' outputs.
        times: how often the body of a Loop node runs in all, by the node's name; once where it is not known.
        runs: how often `graph` itself runs.
        cached: whether it is the body of a loop.
    """
    for node in graph.nodes:
        size = _gathered(node) if cached else _bytes(node, node.name in network)
        yield Cost(node.name, _type(node), runs * _macs(node), runs * size, _has_weights(node))
        for body in node.attrs.values():
            if isinstance(body, gs.Graph):
                yield from costs(body, network, times, times.get(node.name, runs), cached=True)


def elements(tensor: gs.Tensor) -> int:
    """How many; 0 where the shape is not known."""
    shape = tensor.shape
    return int(np.prod(shape)) if shape is not None and all(isinstance(d, int) for d in shape) else 0


def _has_weights(node: gs.Node) -> bool:
    if node.op not in _WEIGHTED:
        return False
    weight = node.inputs[_WEIGHT_AT.get(node.op, 1)]
    made = producer(weight)
    return isinstance(weight, gs.Constant) or (made is not None and made.op == "DequantizeLinear")


def _macs(node: gs.Node) -> int:
    if node.op not in _WEIGHTED:
        return 0
    weight, out = node.inputs[_WEIGHT_AT.get(node.op, 1)], elements(node.outputs[0])
    if node.op in _BY_WEIGHT_ROWS:
        return out * int(np.prod(weight.shape[1:]))
    if node.op == "ConvTranspose":
        return elements(node.inputs[0]) * int(np.prod(weight.shape[1:]))
    data = node.inputs[0].shape
    if not data:
        return 0
    inner = data[0] if node.op == "Gemm" and node.attrs.get("transA", 0) else data[-1]
    return out * inner if isinstance(inner, int) else 0


def _type(node: gs.Node) -> str:
    data = node.inputs[0] if node.inputs else node.outputs[0] if node.outputs else None
    made = producer(data) if data is not None else None
    if node.op == _QUANTIZED or (made is not None and made.op == "DequantizeLinear"):
        return "int8"
    return "fp16" if data is not None and data.dtype is not None and _item(data) == 2 else "fp32"


def _item(tensor: gs.Tensor) -> int:
    """Bytes of an element."""
    kind = tensor.dtype
    if kind is None:
        return 4
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else kind).itemsize


def _size(tensor: gs.Tensor) -> int:
    return elements(tensor) * _item(tensor)


def _read(tensor: gs.Tensor) -> int:
    """Bytes of an operand, in the type from which it is dequantized."""
    made = producer(tensor)
    return _size(made.inputs[0]) if made is not None and made.op == "DequantizeLinear" else _size(tensor)


def _written(tensor: gs.Tensor) -> int:
    """Bytes of a result, in the type to which everything behind quantizes it."""
    readers = tensor.outputs
    while len(readers) == 1 and readers[0].op in _FUSED - {"QuantizeLinear"}:
        tensor, readers = readers[0].outputs[0], readers[0].outputs[0].outputs
    if readers and all(reader.op == "QuantizeLinear" for reader in readers):
        return elements(tensor)
    return _size(tensor)


def _gathered(node: gs.Node) -> int:
    """Bytes that a node in a loop's body selects from a table; slices and the like stay in the cache."""
    return sum(_size(tensor) for tensor in node.outputs) if node.op == "Gather" else 0


def _fused_later(node: gs.Node) -> bool:
    """Whether arithmetic is read by arithmetic alone, so that nothing need be written."""
    readers = [reader for tensor in node.outputs for reader in tensor.outputs]
    return node.op in _ARITHMETIC and bool(readers) and all(reader.op in _ARITHMETIC for reader in readers)


def _bytes(node: gs.Node, inside: bool) -> int:
    if node.op in _FREE or any(isinstance(value, gs.Graph) for value in node.attrs.values()):
        return 0
    out = sum(_size(tensor) for tensor in node.outputs)
    if node.op in _WEIGHTED:
        weight = node.inputs[_WEIGHT_AT.get(node.op, 1)]
        return _read(node.inputs[0]) + _read(weight) + _written(node.outputs[0])
    if inside and node.op in _FUSED:
        return 0
    if inside and node.op == "Add":
        return min(_read(tensor) for tensor in node.inputs)
    if inside or node.domain:
        return sum(_read(tensor) for tensor in node.inputs) + out
    if _fused_later(node):
        return 0
    return 2 * out if node.op in SELECTING else out
