"""Deformable convolution as a plugin node, with the batch norm behind it folded in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.regions import PLUGIN, offset_layers
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import is_static
from onnxgraft.passes.emit.plugin import add_plugin
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import STATIC_INPUT, Fact
from onnxgraft.plugins.lowering import DeformConvLowering


@dataclass(frozen=True, kw_only=True)
class DeformConv(Pass):
    """Replace ONNX DeformConv by ModulatedDeformConv2d; a graph without one is left alone.

    A batch norm that alone reads the result is folded into weights and bias. Without modulation the mask is one
    everywhere. Legal when (1) shapes are static, (2) strides and dilations are the same down and across, whose order the
    plugin does not share with ONNX, (3) padding is the same on both sides, (4) all inputs are fp32.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (STATIC_INPUT,)

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return None if _found(graph) else "the graph has no DeformConv"

    def run(self, graph: Graph, ctx: Context) -> None:
        ones: dict[tuple[int, ...], gs.Tensor] = {}
        for node in _found(graph):
            attrs = _attributes(node)
            norm = _norm(graph, node)
            old = (norm or node).outputs[0]
            b = Builder(graph, node.name, [node.name, *([norm.name] if norm else [])])
            weight, bias = _weights(b, node, norm)
            x, offset = node.inputs[0], node.inputs[2]
            mask = _input(node, 4) or _ones(b, ones, offset)
            (made,) = add_plugin(b, PLUGIN, [x, offset, mask, weight, bias], [("output", np.float32, None)], **attrs)
            new = made.handle
            graph.replace(old, new)
            ctx.replaced[old.name] = new.name
            ctx.count("deformable convolutions")
            ctx.count("batch norms folded", int(norm is not None))
        graph.cleanup()


def _found(graph: Graph) -> list[gs.Node]:
    return [n for n in graph.nodes if n.op == "DeformConv" and not n.domain]


def _attributes(node: gs.Node) -> dict[str, Any]:
    """The plugin's attributes. Raises Refusal for what it cannot say."""
    for tensor in node.inputs:
        if tensor.name and not is_static(tensor):
            raise Refusal(f"tensor {tensor.name!r} of a deformable convolution has no static shape", node.name)
        if tensor.name and tensor.dtype is not None and np.dtype(tensor.dtype) != np.float32:
            raise Refusal(f"a deformable convolution of {np.dtype(tensor.dtype)}: only float32 is known", node.name)
    strides, dilations = node.attrs.get("strides", [1, 1]), node.attrs.get("dilations", [1, 1])
    top, left, bottom, right = node.attrs.get("pads", [0, 0, 0, 0])
    for what, pair in (("strides", strides), ("dilations", dilations)):
        if pair[0] != pair[1]:
            raise Refusal(f"{what} {list(pair)} differ down and across, which {PLUGIN} cannot say safely", node.name)
    if (top, left) != (bottom, right):
        raise Refusal(f"pads {[top, left, bottom, right]} differ between the sides, which {PLUGIN} cannot say", node.name)
    return {
        "stride": list(strides), "padding": [left, top], "dilation": list(dilations),
        "group": node.attrs.get("group", 1), "deformable_group": node.attrs.get("offset_group", 1),
    }  # fmt: skip


def _input(node: gs.Node, index: int) -> gs.Tensor | None:
    return node.inputs[index] if len(node.inputs) > index and node.inputs[index].name else None


def _norm(graph: Graph, node: gs.Node) -> gs.Node | None:
    """The batch norm of constants that alone reads the result."""
    result = node.outputs[0]
    if len(result.outputs) != 1 or any(t is result for t in graph.gs.outputs):
        return None
    norm = result.outputs[0]
    known = norm.op == "BatchNormalization" and not norm.domain and not norm.attrs.get("training_mode", 0)
    constant = all(isinstance(t, gs.Constant) for t in [*norm.inputs[1:], node.inputs[1]])
    bias = _input(node, 3)
    return norm if known and constant and (bias is None or isinstance(bias, gs.Constant)) else None


def _weights(b: Builder, node: gs.Node, norm: gs.Node | None) -> tuple[gs.Tensor, gs.Tensor]:
    """Weight and bias, the norm's scale and shift multiplied in (in float64, stored as float32)."""
    weight, bias = node.inputs[1], _input(node, 3)
    if norm is None:
        return weight, bias or b.floats("bias", np.zeros(weight.shape[0]))
    scale, shift, mean, variance = (np.asarray(t.values, np.float64) for t in norm.inputs[1:5])
    scale = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    start = np.asarray(bias.values, np.float64) if bias is not None else 0.0
    folded = np.asarray(weight.values) * scale[:, None, None, None]
    return b.floats("weight", folded), b.floats("bias", (start - mean) * scale + shift)


def _ones(b: Builder, made: dict[tuple[int, ...], gs.Tensor], offset: gs.Tensor) -> gs.Tensor:
    """A mask of ones for offsets [N, 2*k, H, W], one for all that have the same shape."""
    n, both, *size = offset.shape
    shape = (n, both // 2, *size)
    if shape not in made:
        one, sizes = b.floats("one", [1.0]), b.ints("mask_shape", list(shape))
        made[shape] = b.op("Expand", [one, sizes], "mask", shape=list(shape))
    return made[shape]


def multiply_in(precision: Literal["fp16", "bf16"], graph: Graph, ctx: Context, half: set[str], largest: float) -> None:
    """Let native forms multiply in fp16 or bf16 where the layers that predict the offsets are of that type too.

    The plugin node itself stays fp32: TensorRT's would compute positions in the type of its inputs.
    """
    for node in [n for n in graph.nodes if n.op == PLUGIN]:
        layers = offset_layers(node)
        seen = max((ctx.ranges.seen if ctx.ranges else {}).get(t.name, 0.0) for t in (node.inputs[0], node.outputs[0]))
        weight = node.inputs[3]
        if isinstance(weight, gs.Constant):
            seen = max(seen, float(np.abs(np.asarray(weight.values)).max()))
        if layers and all(layer.name in half for layer in layers) and seen <= largest:
            ctx.lowering[node.name] = DeformConvLowering(multiply=precision)
            ctx.count(f"deformable convolutions that multiply in {precision}")
