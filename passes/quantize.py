"""Types the network as int8 by explicit QuantizeLinear/DequantizeLinear pairs, as TensorRT wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.qdq_placement import Sites, find_sites
from onnxgraft.analysis.regions import Regions, find_regions
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NAMED_OUTPUTS, QUANTIZED, Fact

LEVELS = 127.0
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


@dataclass(frozen=True, kw_only=True)
class Quantize(Pass):
    """Quantize all inputs of Conv, ConvTranspose and Gemm, and the residual input of each skip Add, to symmetric int8.

    Activations have one scale a tensor, from calibration; weights one scale an output channel; biases stay. Tensors
    that hold the same values (through MaxPool, nearest Resize, Concat) share a scale. Scales are exact in fp16, so that
    the fp16 pass does not move them. Layers named in `keep` (regions, groups or layers joined by +) stay higher.
    Legal when (1) the graph holds no Q/DQ yet, (2) every tensor to be quantized was calibrated and is finite.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (NAMED_OUTPUTS,)
    provides: ClassVar[tuple[Fact | str, ...]] = (QUANTIZED,)

    changes_answers = "rounds to int8; `onnxgraft eval` measures what that costs"

    keep: str = "first-conv+predictors"

    def run(self, graph: Graph, ctx: Context) -> None:
        refuse_quantized(graph)
        if ctx.range_source is None:
            raise Refusal("int8 needs calibration: give images (--calib) or a calibration cache")
        regions = find_regions(graph, ctx)
        kept = regions.chosen(self.keep)
        sites = find_sites(graph, regions, kept)
        everything = find_sites(graph, regions, set())
        ctx.ranges = ctx.range_source.ranges(graph, ctx, everything.groups())
        ctx.notes += ctx.ranges.notes
        amax = ctx.ranges.amax
        skipped = {t.name for t in sites.tensors.values() if not amax.get(t.name, 0.0) > 0}
        for name in sorted(skipped):
            ctx.notes.append(f"tensor {name!r} was zero on every calibration image: what reads it is not quantized")
        self._activations(graph, ctx, sites, amax, skipped)
        self._weights(graph, ctx, regions, kept, skipped)
        ctx.count("layers quantized", sum(n not in kept for n in regions.layers))
        ctx.count("layers kept higher", len(kept))
        graph.cleanup()

    @staticmethod
    def _activations(graph: Graph, ctx: Context, sites: Sites, amax: Mapping[str, float], skipped: set[str]) -> None:
        zero = gs.Constant(graph.fresh("int8/zero_point"), np.zeros((), np.int8))
        for key, tensor in sites.tensors.items():
            if tensor.name in skipped:
                continue
            readers = [(node, i) for node, i in sites.readers[key] if node.inputs[i] is tensor]
            b = Builder(graph, "int8", [n.name for n in tensor.inputs])
            scale = b.const(f"{tensor.name}/scale", exact_scales(np.float32(amax[tensor.name])), np.float32)
            q = b.op("QuantizeLinear", [tensor, scale, zero], f"{tensor.name}/q", dtype=np.int8, shape=tensor.shape)
            dq = b.op("DequantizeLinear", [q, scale, zero], f"{tensor.name}/dq", shape=tensor.shape)
            for node, index in readers:
                node.inputs[index] = dq
            ctx.count("activations quantized")

    @staticmethod
    def _weights(graph: Graph, ctx: Context, regions: Regions, kept: set[str], skipped: set[str]) -> None:
        made: dict[tuple[int, int], gs.Tensor] = {}
        for name, node in regions.layers.items():
            if name in kept or node.inputs[0].name in skipped:
                continue
            weight, axis = node.inputs[1], weight_axis(node)
            key = id(weight), axis
            if key not in made:
                made[key] = _dequantized(graph, weight, axis, node.name)
                ctx.count("weights quantized")
            node.inputs[1] = made[key]


def refuse_quantized(graph: Graph) -> None:
    """Raises Refusal when the model came quantized: its own scales must not be covered by ours."""
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"):
            raise Refusal("the model is quantized already: build it with --precision fp32, which keeps its Q/DQ", node.name)


def weight_axis(node: gs.Node) -> int:
    """The axis of a layer's weights that is its output channel."""
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return len(node.inputs[1].shape) - 1


def exact_scales(amax: np.ndarray | np.floating) -> np.ndarray:
    """float32 scales amax / 127 of amax [channels] or [], rounded up to what fp16 holds; 1 where nothing but zero was seen."""
    wanted = np.asarray(amax, np.float32) / np.float32(LEVELS)
    half = np.minimum(np.maximum(wanted, _SMALLEST), 65504.0).astype(np.float16)
    low = half.astype(np.float32) < wanted
    half = np.where(low, np.nextafter(half, np.float16(np.inf)), half)
    return np.where(wanted > 0, half.astype(np.float32), np.float32(1.0)).astype(np.float32)


def quantize_weights(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(int8 weights, float32 scales [channels]) of symmetric rounding, half to even, per channel of `axis`."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scales = exact_scales(np.maximum(values.max(axis=others), -values.min(axis=others)))
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    levels = np.rint(values / scales.reshape(shape))
    return np.clip(levels, -LEVELS, LEVELS).astype(np.int8), scales


def _dequantized(graph: Graph, weight: gs.Constant, axis: int, source: str) -> gs.Tensor:
    b = Builder(graph, "int8", [source])
    levels, scales = quantize_weights(np.asarray(weight.values), axis)
    stored = b.const(f"{weight.name}/int8", levels)
    zeros = b.const(f"{weight.name}/zero_points", np.zeros(len(scales), np.int8))
    scale = b.const(f"{weight.name}/scales", scales)
    return b.op("DequantizeLinear", [stored, scale, zeros], f"{weight.name}/dq", shape=list(levels.shape), axis=axis)
