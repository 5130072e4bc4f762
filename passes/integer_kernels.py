"""Rewrites Q/DQ into the integer operators that ONNX Runtime has fast kernels for; the numbers stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import SAME_VALUES
from onnxgraft.ir.traverse import producer
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import INTEGER_KERNELS, QUANTIZED, Fact

_TOP, _MIDDLE = 127, 128
_LARGEST_BIAS = 2.0**30  # in steps of the accumulator, which is int32
_NON_NEGATIVE = frozenset({"Relu", "Sigmoid"})


@dataclass(frozen=True, kw_only=True)
class IntegerKernels(Pass):
    """Let ONNX Runtime's integer convolutions compute what the Q/DQ pairs say.

    (1) Activations become uint8, which the kernels want: behind a ReLU level q stays q and is clipped at 127, elsewhere
    it becomes q + 128. (2) A Conv or Gemm that is followed by Q, with or without a ReLU between, becomes QLinearConv.
    (3) Weights of other layers are stored as the fp32 values that their levels mean, and a second Q/DQ of values that
    were rounded by the same scale is dropped. Sums are as with Q/DQ; biases are rounded to the accumulator's step.

    `signed-weights` are the weights of convolutions whose input can be negative. With uint8 every CPU computes them
    exactly. int8 is faster, and exact only on CPUs with VNNI: others saturate sums of two products.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (QUANTIZED,)
    provides: ClassVar[tuple[Fact | str, ...]] = (INTEGER_KERNELS,)
    changes_answers = "rounds biases to the accumulator's step, which moves a few int8 levels by one"

    signed_weights: Literal["uint8", "int8"] = "uint8"

    def run(self, graph: Graph, ctx: Context) -> None:
        _drop_repeated(graph, ctx)
        rewrite = _Rewrite(graph, ctx, self.signed_weights)
        for node in [n for n in graph.nodes if n.op == "QuantizeLinear"]:
            rewrite.activation(node)
        for node in [n for n in graph.nodes if n.op == "Conv" or (n.op == "Gemm" and _is_plain(n))]:
            rewrite.layer(node)
        graph.cleanup()
        for node in [n for n in graph.nodes if n.op == "DequantizeLinear" and isinstance(n.inputs[0], gs.Constant)]:
            rewrite.weight(node)
        graph.cleanup()


def _drop_repeated(graph: Graph, ctx: Context) -> None:
    """Q/DQ of values that already lie on the grid of the same scale changes nothing."""
    for q in [n for n in graph.nodes if n.op == "QuantizeLinear"]:
        source = _grid(q.inputs[0])
        if source is None or _number(source.inputs[1]) != _number(q.inputs[1]):
            continue
        for dq in list(q.outputs[0].outputs):
            if dq.op == "DequantizeLinear" and not _feeds_convolution(dq.outputs[0]):
                graph.replace(dq.outputs[0], q.inputs[0])
                ctx.count("repeated Q/DQ dropped")


def _grid(tensor: gs.Tensor) -> gs.Node | None:
    """The DQ whose values a tensor repeats, if any."""
    while (node := producer(tensor)) is not None:
        if node.op == "DequantizeLinear":
            return node
        nearest = node.op == "Resize" and node.attrs.get("mode", "nearest") == "nearest"
        if node.op not in SAME_VALUES and not nearest:
            return None
        tensor = node.inputs[0]
    return None


def _feeds_convolution(tensor: gs.Tensor) -> bool:
    return any(node.op == "Conv" for node in tensor.outputs)


def _number(tensor: gs.Tensor) -> float:
    return float(np.asarray(tensor.values).reshape(-1)[0])


def _is_non_negative(tensor: gs.Tensor) -> bool:
    """Whether a tensor holds nothing below zero, as far as its producers tell."""
    node = producer(tensor)
    if node is None:
        return False
    if node.op in _NON_NEGATIVE:
        return True
    if node.op in ("QuantizeLinear", "DequantizeLinear", "Clip", "Resize") or node.op in SAME_VALUES:
        cubic = node.op == "Resize" and node.attrs.get("mode", "nearest") == "cubic"
        return not cubic and _is_non_negative(node.inputs[0])
    return node.op == "Concat" and all(_is_non_negative(t) for t in node.inputs)


class _Rewrite:
    def __init__(self, graph: Graph, ctx: Context, signed_weights: str) -> None:
        self.graph, self.ctx, self.signed_weights = graph, ctx, signed_weights
        self._zeros = {v: gs.Constant(graph.fresh(f"integer/zero_{v}"), np.array(v, np.uint8)) for v in (0, _MIDDLE)}

    def activation(self, q: gs.Node) -> None:
        """(1): one Q and its DQs."""
        source, levels = q.inputs[0], q.outputs[0]
        readers = [n for n in levels.outputs if n.op == "DequantizeLinear"]
        if len(readers) != len(levels.outputs) or q.inputs[2].dtype != np.int8:
            return
        positive = _is_non_negative(source)
        zero = self._zeros[0 if positive else _MIDDLE]
        relu = producer(source)
        if positive and relu is not None and relu.op == "Relu" and len(source.outputs) == 1:
            q.inputs[0] = relu.inputs[0]  # uint8 ends at 0, where ReLU does
            relu.inputs.clear()
            relu.outputs.clear()
        q.inputs[2] = zero
        levels.dtype = np.dtype(np.uint8)
        read = self._clipped(levels, q) if positive else levels
        for dq in readers:
            dq.inputs[0], dq.inputs[2] = read, zero
        self.ctx.count("activations in uint8")

    def _clipped(self, levels: gs.Tensor, q: gs.Node) -> gs.Tensor:
        b = Builder(self.graph, "integer", [q.name])
        low, high = self._zeros[0], b.const("top", _TOP, np.uint8)
        return b.op("Clip", [levels, low, high], f"{levels.name}/clipped", dtype=np.uint8, shape=levels.shape)

    def layer(self, node: gs.Node) -> None:
        """(2): a Conv or Gemm between DQs and one Q."""
        data, weights = (_maker(t, "DequantizeLinear") for t in node.inputs[:2])
        following = node.outputs[0].outputs
        if data is None or weights is None or len(following) != 1 or following[0].op != "QuantizeLinear":
            return
        q = following[0]
        levels, bias, zero = self._integers(node, data, weights)
        if bias is None or q.inputs[2].dtype != np.uint8:
            return
        inputs = [*data.inputs, levels, weights.inputs[1], zero, q.inputs[1], q.inputs[2], bias]
        b = Builder(self.graph, "integer", [node.name, q.name])
        name = f"{node.outputs[0].name}/q"
        if node.op == "Conv":
            made = b.op("QLinearConv", inputs, name, dtype=np.uint8, shape=q.outputs[0].shape, **node.attrs)
        else:
            made = _gemm(b, inputs, name, q.outputs[0].shape[0])
        self.graph.replace(q.outputs[0], made)
        self.ctx.count("integer layers")
        if levels.dtype == np.uint8:
            self.ctx.count("with uint8 weights")

    def _integers(
        self, node: gs.Node, data: gs.Node, weights: gs.Node
    ) -> tuple[gs.Constant, gs.Constant | None, gs.Constant]:
        """Weights, bias (None where int32 cannot hold it) and the weights' zero points."""
        b = Builder(self.graph, "integer", [node.name])
        step = _number(data.inputs[1]) * np.asarray(weights.inputs[1].values, np.float64)
        exact = np.asarray(node.inputs[2].values, np.float64) / step if len(node.inputs) > 2 else np.zeros(len(step))
        fits = bool(np.abs(exact).max(initial=0.0) < _LARGEST_BIAS)
        bias = b.const(f"{node.name}/bias", np.rint(exact), np.int32) if fits else None
        levels, zero = weights.inputs[0], weights.inputs[2]
        if fits and self.signed_weights == "uint8" and _number(data.inputs[2]) != 0:
            shifted = np.asarray(levels.values, np.int16) + _MIDDLE
            levels = b.const(f"{levels.name}/uint8", shifted.astype(np.uint8))
            zero = b.const(f"{zero.name}/uint8", np.full(len(step), _MIDDLE, np.uint8))
        return levels, bias, zero

    def weight(self, dq: gs.Node) -> None:
        """(3): weights that are still read as fp32, unless Q follows: ONNX Runtime would quantize them anew there."""
        after = [reader for node in dq.outputs[0].outputs for reader in _past_relu(node.outputs[0]).outputs]
        if any(node.op == "QuantizeLinear" for node in after):
            return
        levels, scales = np.asarray(dq.inputs[0].values), np.asarray(dq.inputs[1].values, np.float32)
        shape = [-1 if i == dq.attrs.get("axis", 1) else 1 for i in range(levels.ndim)]
        values = levels.astype(np.float32) * scales.reshape(shape)
        constant = gs.Constant(self.graph.fresh(f"{dq.outputs[0].name}/fp32"), values)
        self.graph.replace(dq.outputs[0], constant)
        self.ctx.count("weights stored as fp32")


def _is_plain(gemm: gs.Node) -> bool:
    """x times transposed weights plus bias."""
    return bool(gemm.attrs.get("transB", 0)) and not gemm.attrs.get("transA", 0) and all(
        gemm.attrs.get(factor, 1.0) == 1.0 for factor in ("alpha", "beta")
    )  # fmt: skip


def _gemm(b: Builder, inputs: list[gs.Tensor], name: str, rows: int | str) -> gs.Variable:
    """A Gemm on uint8 [R, K] as QLinearConv of an image of R pixels with K channels, which has no kernel of its own."""
    data, weights = inputs[0], inputs[3]
    width, depth = (int(d) for d in weights.shape)
    pixels = b.op("Reshape", [data, b.ints("pixels", [1, -1, 1, depth])], f"{name}/pixels", dtype=np.uint8,
                  shape=[1, rows, 1, depth])  # fmt: skip
    image = b.op("Transpose", [pixels], f"{name}/image", dtype=np.uint8, shape=[1, depth, rows, 1], perm=[0, 3, 1, 2])
    values = np.asarray(weights.values)
    inputs = [image, *inputs[1:3], b.const(f"{weights.name}/1x1", values.reshape(width, depth, 1, 1)), *inputs[4:]]
    made = b.op("QLinearConv", inputs, f"{name}/conv", dtype=np.uint8, shape=[1, width, rows, 1], kernel_shape=[1, 1])
    back = b.op("Transpose", [made], f"{name}/rows", dtype=np.uint8, shape=[1, rows, 1, width], perm=[0, 2, 3, 1])
    return b.op("Reshape", [back, b.ints("rows", [-1, width])], name, dtype=np.uint8, shape=[rows, width])


def _past_relu(tensor: gs.Tensor) -> gs.Tensor:
    follower = tensor.outputs[0] if len(tensor.outputs) == 1 else None
    return follower.outputs[0] if follower is not None and follower.op == "Relu" else tensor


def _maker(tensor: gs.Tensor, op: str) -> gs.Node | None:
    node = producer(tensor)
    return node if node is not None and node.op == op else None
