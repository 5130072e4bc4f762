"""Fits a lowered graph to a release of TensorRT: its opset, its plugins, what its parser takes; the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import producer, scalar
from onnxgraft.passes.emit.older_opset import lower_node
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import LOWERED, OPSET, Fact
from onnxgraft.plugins import REGISTRY
from onnxgraft.targets.releases import NATIVE_INT64, TOPK_LIMIT, Release, release_of

_TYPES = {
    "float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP32", "int64": "INT64", "int32": "INT32",
    "int8": "INT8", "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip
_UNTYPED = frozenset({"Loop", "If", "Constant"})
_DATA = {"Where": 1}  # the input whose type counts, where it is not the first
_COUNTED = 1 << 24  # whole numbers below it are exact in fp32
_NO_LAYERS = frozenset({"Constant", "Shape", "Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Loop", "If"})


@dataclass(frozen=True, kw_only=True)
class FitRelease(Pass):
    """Write the graph for one release of TensorRT, or refuse it.

    Nodes are brought to the newest opset that the release's parser takes, plugins get the version that it loads, and for
    TensorRT 8, which chooses types itself, int8 weights are written as fp32 with a Q/DQ pair, and layers that must stay in
    fp32 are noted for trtexec. Legal when (1) its parser lists every operator with the type that it has here, (2) it loads
    every plugin with the attributes that are written, (3) what an older opset cannot say is not asked for.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (LOWERED,)

    release: str = ""

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return None if self.release else "no release is named"

    def portable(self) -> Pass:
        return FitRelease()

    def run(self, graph: Graph, ctx: Context) -> None:
        release = release_of(self.release)
        if release.weakly_typed:
            for node in [n for n in graph.nodes if n.op == "DequantizeLinear"]:
                _pair(graph, ctx, node)
            _sums_in_float(graph, ctx, release)
        for node in _every(graph.gs):
            if node.op in REGISTRY and not node.domain:
                _plugin(node, release)
                ctx.count("plugins")
                continue
            changed = lower_node(node, graph.gs.opset, release.opset, f"TensorRT {release.name}")
            ctx.count("nodes rewritten for an older opset", int(changed))
            _check(node, release)
        if graph.gs.opset > release.opset:
            graph.gs.opset = release.opset
            ctx.facts.discard(OPSET.name)
        _note(graph, ctx, release)
        if release.weakly_typed and ctx.half is not None:
            ctx.kept_fp32 = dict(_kept(graph, ctx.half))
            ctx.count("layers kept in fp32", len(ctx.kept_fp32))


def _every(graph: gs.Graph) -> Iterator[gs.Node]:
    for part in [graph, *graph.subgraphs(recursive=True)]:
        yield from part.nodes


def _plugin(node: gs.Node, release: Release) -> None:
    """Give a plugin node the version that the release loads."""
    plugin = REGISTRY[node.op]
    held = [version for since, version in plugin.releases if release.since(since)]
    if not held:
        first = plugin.releases[0][0] if plugin.releases else "no release"
        way = f"; give --{plugin.group} native" if plugin.group else ""
        raise Refusal(f"TensorRT {release.name} has no plugin {node.op}, which came with {first}{way}", node.name)
    for name, since in plugin.attributes_since.items():
        if name in node.attrs and not release.since(since):
            if node.attrs[name]:
                way = f"; give --{plugin.group} native" if plugin.group else ""
                raise Refusal(f"{node.op} of TensorRT {release.name} has no {name}, which came with {since}{way}", node.name)
            del node.attrs[name]
    node.attrs["plugin_version"] = held[-1]


def _check(node: gs.Node, release: Release) -> None:
    """Refuse what the release's parser does not list."""
    words = f"{node.op}: the parser of TensorRT {release.name}"
    if node.domain:
        raise Refusal(f"{words} knows no operator of domain {node.domain!r}", node.name)
    allowed = release.types_of(node.op)
    if not allowed and node.op != "Loop":
        raise Refusal(f"{words} does not have it", node.name)
    kind = None if node.op in _UNTYPED else _type(node, release)
    if kind is not None and kind not in allowed:
        raise Refusal(f"{words} takes {', '.join(sorted(allowed))}, not {kind}", node.name)
    if node.op == "TopK":
        k = scalar(node.inputs[1])
        if k is not None and k > TOPK_LIMIT:
            raise Refusal(f"{words} keeps at most {TOPK_LIMIT}, not {k:.0f}: split-topk belongs before fit-release", node.name)
    if node.op in ("QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
        zero = node.inputs[2]
        if isinstance(zero, gs.Constant) and np.any(np.asarray(zero.values) != 0):
            raise Refusal(f"{words} takes zero points of zero only", node.name)


def _type(node: gs.Node, release: Release) -> str | None:
    """The type that a node computes on, in NVIDIA's words; None where it is not known."""
    tensors = node.outputs if node.op == "ConstantOfShape" else node.inputs
    index = _DATA.get(node.op, 0)
    dtype = tensors[index].dtype if len(tensors) > index else None
    if dtype is None:
        return None
    plain = onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else np.dtype(dtype)
    kind = _TYPES.get(plain.name, plain.name)
    return "INT32" if kind == "INT64" and not release.since(NATIVE_INT64) else kind  # its parser casts down


def _pair(graph: Graph, ctx: Context, node: gs.Node) -> None:
    """TensorRT 8 wants weights in fp32 and quantizes them itself: q(levels * scale) is levels again, bit for bit."""
    stored, scale = node.inputs[0], node.inputs[1]
    if not isinstance(stored, gs.Constant) or not isinstance(scale, gs.Constant):
        return
    levels, steps = np.asarray(stored.values), np.asarray(scale.values, np.float32)
    axis = int(node.attrs.get("axis", 1))
    shape = [-1 if i == axis else 1 for i in range(levels.ndim)] if steps.ndim else [1] * levels.ndim
    weight = levels.astype(np.float32) * steps.reshape(shape)
    constant = gs.Constant(graph.fresh(f"{stored.name}/fp32"), weight)
    quantized = gs.Variable(graph.fresh(f"{stored.name}/q"), np.int8, list(levels.shape))
    attrs = {"axis": axis} if steps.ndim else {}
    made = gs.Node("QuantizeLinear", graph.fresh(f"{node.name}/q"), attrs, [constant, *node.inputs[1:]], [quantized])
    graph.gs.nodes.insert(graph.gs.nodes.index(node), made)
    node.inputs[0] = quantized
    ctx.count("weights with a Q/DQ pair")


def _sums_in_float(graph: Graph, ctx: Context, release: Release) -> None:
    """Count in fp32 where the parser sums no whole numbers: what is counted are truths, fewer than fp32 can count exactly."""
    if "INT32" in release.types_of("ReduceSum"):
        return
    for part in [graph.gs, *graph.gs.subgraphs(recursive=True)]:
        for node in [n for n in part.nodes if n.op == "ReduceSum" and _type(n, release) == "INT32"]:
            cast = producer(node.inputs[0])
            shape = node.inputs[0].shape
            if cast is None or cast.op != "Cast" or cast.inputs[0].dtype != bool:
                continue  # _check refuses it
            if not shape or not all(isinstance(d, int) for d in shape) or np.prod(shape) >= _COUNTED:
                continue
            out, to = node.outputs[0], np.dtype(node.inputs[0].dtype)
            counted = gs.Variable(graph.fresh(f"{node.name}/truths"), np.float32, list(shape))
            summed = gs.Variable(graph.fresh(f"{node.name}/sum"), np.float32, out.shape)
            before = _cast(graph, f"{node.name}/float", cast.inputs[0], counted, np.dtype(np.float32))
            after = _cast(graph, f"{node.name}/whole", summed, out, to)
            node.inputs[0], node.outputs = counted, [summed]
            position = part.nodes.index(node)
            part.nodes[position : position + 1] = [before, node, after]
            ctx.count("sums in fp32")


def _cast(graph: Graph, name: str, source: gs.Tensor, made: gs.Tensor, dtype: np.dtype[Any]) -> gs.Node:
    to = int(onnx.helper.np_dtype_to_tensor_dtype(dtype))
    made.inputs.clear()
    return gs.Node("Cast", graph.fresh(name), {"to": to}, [source], [made])


def _kept(graph: Graph, half: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """(name, whether all outputs are floats) of layers that compute floats and are none of `half`; a name that trtexec could
    not read is changed."""
    for node in _every(graph.gs):
        floats = [t.dtype is not None and not isinstance(t.dtype, int) and t.dtype == np.float32 for t in node.outputs]
        if node.name in half or node.op in _NO_LAYERS or not node.name or not any(floats):
            continue
        node.name = node.name.replace(":", "_").replace(",", "_")
        yield node.name, all(floats)


def _note(graph: Graph, ctx: Context, release: Release) -> None:
    used = sorted({n.op for n in graph.nodes if n.op in REGISTRY and not n.domain})
    for op in used:
        plugin = REGISTRY[op]
        if plugin.deprecated and release.since(plugin.deprecated):
            ctx.notes.append(f"{op} is deprecated since TensorRT {plugin.deprecated} and loads in {release.name}; "
                             f"--{plugin.group} native leaves it out")  # fmt: skip
    looping = next((n.name for n in graph.nodes if n.op == "Loop"), None)
    if release.weakly_typed and looping is not None:
        ctx.notes.append(
            f"the Loop {looping!r}: where it was tried, the builder of TensorRT 8.6 gave no engine of a Loop in fp16, and "
            "none in minutes in fp32; suppression and RoIAlign by plugins have none, up to 5000 candidates"
        )
