"""Lets a network that was traced for one picture run a batch of them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import forget_shapes, infer_shapes
from onnxgraft.ir.traverse import ancestors, descendants, value
from onnxgraft.passes.emit.rows import first_image
from onnxgraft.pipeline.context import Context

_ALONG = {
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd", "CumSum"), 1),
    **dict.fromkeys(("Softmax", "LogSoftmax", "ArgMax", "TopK", "LpNormalization", "Concat"), None),
}  # fmt: skip
"""Operators that work along axes, and the input that may name these."""


def refuse_lost_rows(graph: Graph, ctx: Context, batch: int) -> None:
    """Hold that every map has a row for each picture. Raises Refusal with the node that makes one without."""
    for name in (*ctx.spec().dense_tensors(), *ctx.spec().feature_tensors()):
        tensor = graph.tensor(name)
        if tensor.shape and isinstance(tensor.shape[0], int) and tensor.shape[0] != batch:
            raise Refusal(f"this map has {tensor.shape[0]} rows for a batch of {batch}: a shape of one picture was traced into "
                          "the network; build with --batch 1", tensor.inputs[0].name if tensor.inputs else name)  # fmt: skip


def follow_batch(graph: Graph, spec: DetectorSpec, batch: int) -> None:
    """Shapes of one image that were folded into the network (GroupNorm's Reshape, a Resize to sizes) take the batch.

    Raises:
        Refusal: a node mixes the pictures of a batch.
    """
    names = [*spec.dense_tensors(), *spec.feature_tensors(), *([spec.semantic.logits_tensor] if spec.semantic else [])]
    network = {id(n): n for name in names for n in ancestors(graph.tensor(name))}
    moving = descendants(graph.gs.inputs[0])
    for node in network.values():
        if any(id(t) in moving for t in node.inputs) and _across_pictures(node):
            raise Refusal(f"this {node.op} works across the pictures of a batch, so that each would change what the others "
                          "give; build with --batch 1", node.name)  # fmt: skip
        if node.op == "Resize" and len(node.inputs) > 3 and isinstance(node.inputs[3], gs.Constant):
            sizes = np.array(node.inputs[3].values)
            if sizes.size == 4 and sizes[0] == 1 and not node.attrs.get("axes"):
                node.inputs[3] = Builder(graph, "fix_input", [node.name]).ints("sizes", [batch, *sizes[1:].tolist()])
        before, target = node.inputs[0].shape, node.inputs[1] if node.op == "Reshape" else None
        if not isinstance(target, gs.Constant) or not before or before[0] != 1 or node.attrs.get("allowzero", 0):
            continue
        shape = np.array(target.values)
        if shape.size and shape[0] == 1:
            shape[0] = 0
            node.inputs[1] = Builder(graph, "fix_input", [node.name]).ints("shape", shape.tolist())


def _across_pictures(node: gs.Node) -> bool:
    """Whether a node reduces, normalises or sorts along the first axis of a map."""
    if node.op == "BatchNormalization":
        return bool(node.attrs.get("training_mode", 0))
    rank = len(node.inputs[0].shape or ())
    if rank < 3 or node.op not in _ALONG:
        return False
    axes = node.attrs.get("axes", node.attrs.get("axis"))
    at = _ALONG[node.op]
    if axes is None and at is not None and len(node.inputs) > at and node.inputs[at].name:
        axes = value(node.inputs[at])
    if axes is None:
        return node.op.startswith("Reduce") and not node.attrs.get("noop_with_empty_axes", 0)
    return 0 in {int(a) % rank for a in np.atleast_1d(np.asarray(axes))}


def forget_stale_shapes(graph: Graph, batch: int) -> None:
    """A batch changes every shape; a new axis alone only those up to the first convolution."""
    if batch > 1:
        forget_shapes(graph)
        infer_shapes(graph)
        return
    tensor: gs.Tensor = graph.gs.inputs[0]
    while tensor.outputs and tensor.outputs[0].op != "Conv":
        tensor = tensor.outputs[0].outputs[0]
        tensor.shape = None


def first_image_for_the_tail(graph: Graph, ctx: Context, batch: int) -> None:
    """The parts that later passes rewrite were traced for one image: give them the first of the batch."""
    for name in ctx.spec().dense_tensors():
        tensor = graph.tensor(name)
        consumers = list(tensor.outputs)
        first = first_image(Builder(graph, "first_image", [name]).of(tensor), batch)
        graph.redirect(consumers, tensor, first.handle)
