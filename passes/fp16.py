"""Types the network as fp16: casts at its boundary only, coordinates and scores stay fp32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.graph import Builder, Graph
from onnxgraft.manager import Context, Pass
from onnxgraft.passes.regions import Regions, find_regions

LIMIT = 65504.0  # the largest fp16
HEADROOM = 2.0  # calibration sees a sample: activations above LIMIT / HEADROOM count as overflow
_FLOAT, _HALF = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16)
# Reductions and exponentials lose too much in fp16; whatever is not named here stays in fp32.
_HALF_OPS = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Clip", "Add",
    "Sub", "Mul", "Div", "Max", "Min", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Flatten", "Reshape",
    "Transpose", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Pad", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
_FIRST_ONLY = frozenset({"Resize", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"})  # other inputs are no data
_DATA = {"Pad": (0, 2), "QuantizeLinear": (0, 1), "DequantizeLinear": (1,)}


@dataclass(frozen=True, kw_only=True)
class Fp16(Pass):
    """Compute backbone, FPN and heads in fp16, with weights stored as fp16.

    Anchors, decoding, NMS, RoI coordinates, softmax and sigmoid of scores stay fp32, as do inputs and outputs. A tensor
    is cast once where it crosses the boundary. Legal when (1) the detector is recognised. Layers stay in fp32 when
    they are named in `keep` (regions, groups or layers joined by +), when a weight exceeds fp16, or when calibration
    saw an activation above half of fp16's range.
    """

    requires: ClassVar[tuple[str, ...]] = ("named-outputs",)
    provides: ClassVar[tuple[str, ...]] = ("fp16",)

    keep: str = "none"

    def run(self, graph: Graph, ctx: Context) -> None:
        regions = find_regions(graph, ctx)
        half = _half_nodes(graph, regions)
        for name in sorted(regions.chosen(self.keep)):
            half.discard(regions.layers[name].name)
            ctx.count("layers kept in fp32")
        _drop_overflowing(graph, ctx, regions, half)
        _convert(graph, ctx, half)
        graph.cleanup()


def _half_nodes(graph: Graph, regions: Regions) -> set[str]:
    return {
        node.name
        for node in graph.nodes
        if node.name in regions.of and node.op in _HALF_OPS and not node.domain and _computes_floats(node)
    }


def _computes_floats(node: gs.Node) -> bool:
    """Not arithmetic on shapes."""
    tensors = [node.inputs[i] for i in _data_inputs(node)]
    return any(_is_float(t) for t in [*tensors, *node.outputs])


def _is_float(tensor: gs.Tensor) -> bool:
    return bool(tensor.name) and tensor.dtype is not None and not isinstance(tensor.dtype, int) and tensor.dtype == np.float32


def _data_inputs(node: gs.Node) -> Iterable[int]:
    if node.op in _DATA:
        return [i for i in _DATA[node.op] if i < len(node.inputs)]
    return range(1) if node.op in _FIRST_ONLY else range(len(node.inputs))


def _drop_overflowing(graph: Graph, ctx: Context, regions: Regions, half: set[str]) -> None:
    """Keep in fp32 what fp16 cannot hold, and say so."""
    names = {id(node): name for name, node in regions.layers.items()}
    measured = ctx.ranges or {}
    for node in graph.nodes:
        if node.name not in half:
            continue
        label = names.get(id(node), f"{regions.of[node.name]}, {node.op}")
        weight = max((_largest(t) for t in node.inputs if isinstance(t, gs.Constant) and _is_float(t)), default=0.0)
        seen = max((_seen(measured, t) for t in [*node.inputs, *node.outputs]), default=0.0)
        if weight > LIMIT:
            ctx.notes.append(f"{label} stays in fp32: a weight of {weight:.4g} exceeds fp16")
        elif seen > LIMIT / HEADROOM:
            ctx.notes.append(f"{label} stays in fp32: calibration saw an activation of {seen:.4g}, fp16 ends at {LIMIT:.0f}")
        else:
            continue
        half.discard(node.name)
        ctx.count("layers that overflow")


def _largest(tensor: gs.Constant) -> float:
    values = np.asarray(tensor.values)
    return float(max(abs(values.max(initial=0.0)), abs(values.min(initial=0.0))))


def _seen(measured: Mapping[str, float], tensor: gs.Tensor) -> float:
    return float(measured.get(tensor.name, 0.0))


def _convert(graph: Graph, ctx: Context, half: set[str]) -> None:
    casts = _Casts(graph, ctx)
    made = {id(t) for node in graph.nodes if node.name in half for t in node.outputs if _is_float(t)}
    for node in list(graph.nodes):
        inside = node.name in half
        data = set(_data_inputs(node)) if inside else set()
        for index, tensor in enumerate(list(node.inputs)):
            if inside and index in data and _is_float(tensor) and id(tensor) not in made:
                node.inputs[index] = casts.to_half(tensor)
            elif id(tensor) in made and not (inside and index in data):
                node.inputs[index] = casts.to_float(tensor)
        if inside:
            ctx.count("nodes in fp16")
    for index, tensor in enumerate(graph.gs.outputs):
        if id(tensor) in made:
            graph.gs.outputs[index] = casts.output(tensor)
    tensors = {id(t): t for node in graph.nodes for t in node.outputs}
    for key in made:
        tensors[key].dtype = np.dtype(np.float16)


class _Casts:
    """One cast per tensor and direction; constants are stored as fp16 instead."""

    def __init__(self, graph: Graph, ctx: Context) -> None:
        self.graph, self.ctx = graph, ctx
        self._half: dict[int, gs.Tensor] = {}
        self._float: dict[int, gs.Tensor] = {}

    def to_half(self, tensor: gs.Tensor) -> gs.Tensor:
        if id(tensor) not in self._half:
            if isinstance(tensor, gs.Constant):
                self._half[id(tensor)] = self._constant(tensor)
            else:
                self._half[id(tensor)] = self._cast(tensor, "half", np.float16, _HALF)
        return self._half[id(tensor)]

    def to_float(self, tensor: gs.Tensor) -> gs.Tensor:
        if id(tensor) not in self._float:
            self._float[id(tensor)] = self._cast(tensor, "float", np.float32, _FLOAT)
        return self._float[id(tensor)]

    def output(self, tensor: gs.Tensor) -> gs.Tensor:
        """The fp32 form of a graph output, under the name that the user knows."""
        name = tensor.name
        tensor.name = self.graph.fresh(f"{name}/half")
        cast = self.to_float(tensor)
        cast.name = name
        return cast

    def _cast(self, tensor: gs.Tensor, hint: str, dtype: type, code: int) -> gs.Variable:
        sources = [node.name for node in tensor.inputs]
        builder = Builder(self.graph, "precision", sources)
        self.ctx.count("casts")
        return builder.op("Cast", [tensor], f"{tensor.name}/{hint}", dtype=dtype, shape=tensor.shape, to=code)

    def _constant(self, tensor: gs.Constant) -> gs.Constant:
        values = np.asarray(tensor.values).astype(np.float16)
        self.ctx.count("weights in fp16", int(values.size > 1))
        return gs.Constant(self.graph.fresh(f"{tensor.name}/half"), values)
