"""What holds of a graph at some point of a compilation: what passes require of each other, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.outputs import TENSORS, Role
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.ir.traverse import ancestors
from onnxgraft.pipeline.context import Context

Holds = Callable[[Graph, Context], str | None]
OPSET_LEAST = 19  # what passes emit and native forms are written in


@dataclass(frozen=True)
class Fact:
    """Something that holds of a graph.

    Attributes:
        name: in kebab case, as pipelines and documentation show it.
        holds: says why it does not hold, or None; a fact without one only orders passes. Where it needs the network's
            form to be told apart, it says None of a network that it does not concern.
    """

    name: str
    holds: Holds | None = field(default=None, compare=False, repr=False)


def _opset(graph: Graph, ctx: Context) -> str | None:
    found = int(graph.gs.opset)
    return None if found >= OPSET_LEAST else f"the graph has opset {found}, below {OPSET_LEAST}"


def _static_input(graph: Graph, ctx: Context) -> str | None:
    for tensor in graph.gs.inputs:
        if not _static(tensor):
            return f"input {tensor.name!r} has the shape {tensor.shape}"
    return None


def _detector(graph: Graph, ctx: Context) -> str | None:
    return None if ctx.detector is not None else "the context holds no DetectorSpec"


def _normalized_input(graph: Graph, ctx: Context) -> str | None:
    if not ctx.values.has("normalized"):
        return "no tensor is known as the normalised image"
    name = ctx.values.normalized
    tensor = _tensors(graph).get(name)
    if tensor is None or not tensor.inputs:
        return f"no node makes the normalised image {name!r}"
    image = graph.gs.inputs[0]
    if not any(t is image for node in ancestors(tensor) for t in node.inputs):
        return f"the normalised image {name!r} does not depend on the input {image.name!r}"
    return None


def _anchors(graph: Graph, ctx: Context) -> str | None:
    levels = ctx.spec().anchor_levels()
    if len(ctx.anchors) != len(levels):
        return f"there are anchors of {len(ctx.anchors)} levels, the detector has {len(levels)}"
    for level, anchors in zip(levels, ctx.anchors, strict=True):
        wanted = (level.height * level.width * level.anchors, 4)
        if anchors.shape != wanted:
            return f"the anchors of stride {level.stride} have the shape {anchors.shape}, not {wanted}"
    return None


def _decoded_boxes(graph: Graph, ctx: Context) -> str | None:
    return _candidates(graph, ctx, classes=False)


def _dense_candidates(graph: Graph, ctx: Context) -> str | None:
    return _candidates(graph, ctx, classes=True)


def _candidates(graph: Graph, ctx: Context, classes: bool) -> str | None:
    if not ctx.values.has("levels"):
        return "no level has candidates"
    dense = ctx.spec().dense
    wanted = 1 if dense is not None and dense.class_topk is not None else len(ctx.spec().anchor_levels())
    if len(ctx.values.levels) != wanted:
        return f"{len(ctx.values.levels)} levels have candidates, the detector has {wanted}"
    for level in ctx.values.levels:
        if classes and level.classes is None:
            return f"the candidates {level.boxes!r} have no classes"
        rows = [level.boxes, level.scores, *([level.classes] if level.classes else [])]
        problem = _same_rows(graph, ctx.batch, rows)
        if problem:
            return problem
    return None


def _proposals(graph: Graph, ctx: Context) -> str | None:
    if not ctx.values.has("proposals"):
        return "no tensor is known as the proposals"
    return _same_rows(graph, ctx.batch, [ctx.values.proposals.boxes, ctx.values.proposals.valid])


def _pooled(graph: Graph, ctx: Context) -> str | None:
    if not ctx.values.has("head_boxes"):
        return "no tensor is known as the boxes that the box head pools"
    head = ctx.spec().box_head
    tensor = _tensors(graph).get(head.scores_tensor) if head else None
    for node in ancestors(tensor) if tensor is not None else ():
        if node.op == "RoiAlign" and not node.domain:
            return f"node {node.name!r} pools for the box head as the export did"
    return None


def _detections(graph: Graph, ctx: Context) -> str | None:
    spec, results = ctx.detector, ctx.values.results
    if spec is not None and spec.semantic is not None and spec.outputs.boxes_tensor is None:
        return None  # it only segments
    outputs = {t.name: t for t in graph.gs.outputs}
    for role in (Role.NUM_DETECTIONS, Role.BOXES, Role.SCORES):
        if role not in results:
            return f"no output is known as {role.value}"
        if results[role] not in outputs:
            return f"{results[role]!r}, known as {role.value}, is no output"
    boxes = outputs[results[Role.BOXES]]
    if not _static(boxes) or len(boxes.shape) != 3 or boxes.shape[-1] != 4:
        return f"the boxes {boxes.name!r} have the shape {boxes.shape}, not [images, detections, 4]"
    return None


def _named_outputs(graph: Graph, ctx: Context) -> str | None:
    known = {*TENSORS.values(), *ctx.unknown_outputs}
    for tensor in graph.gs.outputs:
        if tensor.name not in known:
            return f"output {tensor.name!r} is not called what a result is called"
    return None


def _quantized(graph: Graph, ctx: Context) -> str | None:
    for node in graph.nodes:
        if node.op == "QuantizeLinear":
            other = next((n.name for t in node.outputs for n in t.outputs if n.op != "DequantizeLinear"), None)
            if other is not None:
                return f"node {other!r} reads the integers of {node.name!r}, which are for a DequantizeLinear"
            scale = node.inputs[1]
            if not isinstance(scale, gs.Constant) or not np.all(np.asarray(scale.values, np.float32) > 0):
                return f"the scale of {node.name!r} is not a positive constant"
    return None


def _integer_kernels(graph: Graph, ctx: Context) -> str | None:
    for node in graph.nodes:
        signed = node.op == "QuantizeLinear" and len(node.inputs) > 2 and node.inputs[2].dtype == np.int8
        if signed and all(reader.op == "DequantizeLinear" for reader in node.outputs[0].outputs):
            return f"node {node.name!r} rounds activations to int8, which ONNX Runtime's kernels do not take"
    return None


def _float32_ends(graph: Graph, ctx: Context) -> str | None:
    for tensor in (*graph.gs.inputs, *graph.gs.outputs):
        dtype = None if tensor.dtype is None else np.dtype(tensor.dtype)
        if dtype is not None and dtype.itemsize == 2 and dtype.kind in "fV":
            return f"{tensor.name!r}, an input or output, is {dtype}"
    return None


def _lowered(graph: Graph, ctx: Context) -> str | None:
    for node in graph.nodes:
        if node.domain == PLUGIN_DOMAIN and node.op not in graph.functions:
            return f"plugin node {node.name!r} of kind {node.op!r} is neither handed over nor a function"
    return None


OPSET = Fact("opset", _opset)
SIMPLIFIED = Fact("simplified")
STATIC_INPUT = Fact("static-input", _static_input)
DETECTOR = Fact("detector", _detector)
NORMALIZED_INPUT = Fact("normalized-input", _normalized_input)
ANCHORS = Fact("anchors", _anchors)
DECODED_BOXES = Fact("decoded-boxes", _decoded_boxes)
DENSE_CANDIDATES = Fact("dense-candidates", _dense_candidates)
PROPOSALS = Fact("proposals", _proposals)
POOLED = Fact("pooled", _pooled)
DETECTIONS = Fact("detections", _detections)
NAMED_OUTPUTS = Fact("named-outputs", _named_outputs)
QUANTIZED = Fact("quantized", _quantized)
INTEGER_KERNELS = Fact("integer-kernels", _integer_kernels)
FP16 = Fact("fp16", _float32_ends)
BF16 = Fact("bf16", _float32_ends)
LOWERED = Fact("lowered", _lowered)

_KNOWN = {
    known.name: known
    for known in (
        OPSET, SIMPLIFIED, STATIC_INPUT, DETECTOR, NORMALIZED_INPUT, ANCHORS, DECODED_BOXES, DENSE_CANDIDATES, PROPOSALS,
        POOLED, DETECTIONS, NAMED_OUTPUTS, QUANTIZED, INTEGER_KERNELS, FP16, BF16, LOWERED,
    )
}  # fmt: skip


def facts(given: Iterable[Fact | str]) -> tuple[Fact, ...]:
    """Facts as they are; a name stands for the fact that is known by it, or for one without a check."""
    return tuple(fact if isinstance(fact, Fact) else _KNOWN.get(fact, Fact(fact)) for fact in given)


def _tensors(graph: Graph) -> dict[str, gs.Tensor]:
    """All tensors that nodes make, and the inputs, by name."""
    made = {t.name: t for node in graph.nodes for t in node.outputs}
    return {t.name: t for t in graph.gs.inputs} | made


def _static(tensor: gs.Tensor) -> bool:
    return tensor.shape is not None and all(isinstance(d, (int, np.integer)) for d in tensor.shape)


def _same_rows(graph: Graph, batch: int, names: list[str]) -> str | None:
    """Why tensors are not [batch, k, ...] with one k: the first is boxes [batch, k, 4]."""
    tensors = _tensors(graph)
    missing = next((name for name in names if name not in tensors), None)
    if missing is not None:
        return f"the graph has no tensor {missing!r}"
    boxes = tensors[names[0]]
    if not _static(boxes) or len(boxes.shape) != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
        return f"the boxes {boxes.name!r} have the shape {boxes.shape}, not [{batch}, rows, 4]"
    for name in names[1:]:
        if tensors[name].shape is not None and list(tensors[name].shape) != list(boxes.shape[:2]):
            return f"{name!r} has the shape {tensors[name].shape}, the boxes have {boxes.shape}"
    return None
