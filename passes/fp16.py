"""Types the network as fp16: casts at its boundary only, coordinates and scores stay fp32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.analysis.regions import Regions, find_regions
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes import deform_conv
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import FP16, NAMED_OUTPUTS, Fact

LIMIT = 65504.0  # the largest fp16
HEADROOM = 2.0  # calibration sees a sample: activations above LIMIT / HEADROOM count as overflow
_FLOAT = int(onnx.TensorProto.FLOAT)
# Reductions and exponentials lose too much in fp16; whatever is not named here stays in fp32.
_HALF_OPS = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Clip", "Add",
    "Sub", "Mul", "Div", "Max", "Min", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Flatten", "Reshape",
    "Transpose", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Pad", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip
_FIRST_ONLY = frozenset({"Resize", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"})  # other inputs are no data
_DATA = {"Pad": (0, 2), "QuantizeLinear": (0, 1), "DequantizeLinear": (1,)}
# These repeat or choose values that were rounded before.
_EXACT = frozenset({
    "Relu", "Clip", "Max", "Min", "MaxPool", "Flatten", "Reshape", "Transpose", "Concat", "Slice", "Split", "Squeeze",
    "Unsqueeze", "Pad", "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fp16(Pass):
    """Compute backbone, FPN and heads in fp16, with weights stored as fp16.

    Anchors, decoding, NMS, RoI coordinates, softmax and sigmoid of scores stay fp32, as do inputs and outputs. A tensor
    is cast once where it crosses the boundary. Legal when (1) the detector is recognised. Layers stay in fp32 when
    they are named in `keep` (regions, groups or layers joined by +), when a weight exceeds fp16, or when calibration
    saw an activation above half of fp16's range.

    `emulate` leaves the types alone and rounds instead, weights and every result, to what fp16 holds: ONNX Runtime has
    no fp16 kernels on the CPU, computes a graph typed fp16 in fp32 and rounds nothing in between.

    `weak` leaves the graph alone and notes which nodes may be fp16, for a builder that chooses types itself (TensorRT 8).
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (NAMED_OUTPUTS,)
    provides: ClassVar[tuple[Fact | str, ...]] = (FP16,)
    storage: ClassVar[np.dtype] = np.dtype(np.float16)
    limit: ClassVar[float] = LIMIT
    changes_answers = "rounds to fp16; `onnxgraft eval` measures what that costs"
    lacks: ClassVar[frozenset[str]] = frozenset()  # operators that targets do not have in this type

    keep: str = "none"
    emulate: bool = False
    weak: bool = False

    def portable(self) -> Pass:
        return replace(self, emulate=True, weak=False)

    def run(self, graph: Graph, ctx: Context) -> None:
        regions = find_regions(graph, ctx)
        half = _half_nodes(graph, regions, _HALF_OPS - self.lacks)
        for name in sorted(regions.chosen(self.keep)):
            half.discard(regions.layers[name].name)
            ctx.count("layers kept in fp32")
        _drop_overflowing(graph, ctx, regions, half, short_name(self.storage), self.limit)
        if self.weak:
            ctx.half = frozenset(half)
            ctx.count(f"nodes that may be {short_name(self.storage)}", len(half))
        elif self.emulate:
            _round(graph, ctx, half, self.storage)
        else:
            deform_conv.multiply_in(short_name(self.storage), graph, ctx, half, self.limit / HEADROOM)
            _convert(graph, ctx, half, self.storage)
        graph.cleanup()


def _half_nodes(graph: Graph, regions: Regions, ops: frozenset[str]) -> set[str]:
    return {
        node.name
        for node in graph.nodes
        if node.name in regions.of and node.op in ops and not node.domain and _computes_floats(node)
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


def _drop_overflowing(
    graph: Graph, ctx: Context, regions: Regions, half: set[str], precision: str, limit: float
) -> None:
    """Keep in fp32 what the type cannot hold, and say so."""
    names = {id(node): name for name, node in regions.layers.items()}
    measured = ctx.ranges.seen if ctx.ranges else {}
    for node in graph.nodes:
        if node.name not in half:
            continue
        label = names.get(id(node), f"{regions.of[node.name]}, {node.op}")
        weight = max((_largest(t) for t in node.inputs if isinstance(t, gs.Constant) and _is_float(t)), default=0.0)
        seen = max((_seen(measured, t) for t in [*node.inputs, *node.outputs]), default=0.0)
        if weight > limit:
            ctx.notes.append(f"{label} stays in fp32: a weight of {weight:.4g} exceeds {precision}")
        elif seen > limit / HEADROOM:
            ends = f"{limit:.0f}" if limit < 1e6 else f"{limit:.4g}"
            ctx.notes.append(f"{label} stays in fp32: calibration saw an activation of {seen:.4g}, {precision} ends at {ends}")
        else:
            continue
        half.discard(node.name)
        ctx.count("layers that overflow")


def _largest(tensor: gs.Constant) -> float:
    values = np.asarray(tensor.values)
    return float(max(abs(values.max(initial=0.0)), abs(values.min(initial=0.0))))


def _seen(measured: Mapping[str, float], tensor: gs.Tensor) -> float:
    return float(measured.get(tensor.name, 0.0))


def _convert(graph: Graph, ctx: Context, half: set[str], storage: np.dtype) -> None:
    casts = _Casts(graph, ctx, storage)
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
            ctx.count(f"nodes in {short_name(storage)}")
    for index, tensor in enumerate(graph.gs.outputs):
        if id(tensor) in made:
            graph.gs.outputs[index] = casts.output(tensor)
    tensors = {id(t): t for node in graph.nodes for t in node.outputs}
    for key in made:
        tensors[key].dtype = storage


def _round(graph: Graph, ctx: Context, half: set[str], storage: np.dtype) -> None:
    """Round as `_convert` would, in fp32: what enters the half nodes, their constants, and what they compute."""
    casts = _Casts(graph, ctx, storage)
    made = {id(t) for node in graph.nodes if node.name in half for t in node.outputs if _is_float(t)}
    for node in [n for n in graph.nodes if n.name in half]:
        scaled = node.op in ("QuantizeLinear", "DequantizeLinear")  # their scales are exact in fp16
        for index in list(_data_inputs(node)):
            tensor = node.inputs[index]
            if _is_float(tensor) and id(tensor) not in made and not (scaled and isinstance(tensor, gs.Constant)):
                node.inputs[index] = casts.to_float(casts.to_half(tensor))
        for tensor in [t for t in node.outputs if node.op not in _EXACT and id(t) in made]:
            readers, names = list(tensor.outputs), [i for i, t in enumerate(graph.gs.outputs) if t is tensor]
            rounded = casts.to_float(casts.to_half(tensor))
            graph.redirect(readers, tensor, rounded)
            for index in names:
                tensor.name, rounded.name = graph.fresh(f"{tensor.name}/exact"), tensor.name
                graph.gs.outputs[index] = rounded


class _Casts:
    """One cast per tensor and direction; constants are stored in the half type instead."""

    def __init__(self, graph: Graph, ctx: Context, storage: np.dtype) -> None:
        self.graph, self.ctx, self.storage = graph, ctx, storage
        self._code = int(onnx.helper.np_dtype_to_tensor_dtype(storage))
        self._half: dict[int, gs.Tensor] = {}
        self._float: dict[int, gs.Tensor] = {}
        self._alive: list[gs.Tensor] = []  # a replaced constant must not lend its id to another

    def to_half(self, tensor: gs.Tensor) -> gs.Tensor:
        if id(tensor) not in self._half:
            self._alive.append(tensor)
            if isinstance(tensor, gs.Constant):
                self._half[id(tensor)] = self._constant(tensor)
            else:
                self._half[id(tensor)] = self._cast(tensor, "half", self.storage, self._code)
        return self._half[id(tensor)]

    def to_float(self, tensor: gs.Tensor) -> gs.Tensor:
        if id(tensor) not in self._float:
            self._alive.append(tensor)
            self._float[id(tensor)] = self._cast(tensor, "float", np.dtype(np.float32), _FLOAT)
        return self._float[id(tensor)]

    def output(self, tensor: gs.Tensor) -> gs.Tensor:
        """The fp32 form of a graph output, under the name that the user knows."""
        name = tensor.name
        tensor.name = self.graph.fresh(f"{name}/half")
        cast = self.to_float(tensor)
        cast.name = name
        return cast

    def _cast(self, tensor: gs.Tensor, hint: str, dtype: np.dtype, code: int) -> gs.Variable:
        sources = [node.name for node in tensor.inputs]
        builder = Builder(self.graph, "precision", sources)
        self.ctx.count("casts")
        return builder.op("Cast", [tensor], f"{tensor.name}/{hint}", dtype=dtype, shape=tensor.shape, to=code)

    def _constant(self, tensor: gs.Constant) -> gs.Constant:
        values = np.asarray(tensor.values).astype(self.storage)
        self.ctx.count(f"weights in {short_name(self.storage)}", int(values.size > 1))
        return gs.Constant(self.graph.fresh(f"{tensor.name}/half"), values)


def short_name(storage: np.dtype) -> Literal["fp16", "bf16"]:
    """ "fp16" or "bf16"."""
    return "fp16" if storage == np.float16 else "bf16"
