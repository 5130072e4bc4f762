"""Lets a network that was traced for one picture run a batch of them."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.batch_axis import BROADCASTS, Axes, follow_pictures, multiplies_vectors
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import forget_shapes, is_static
from onnxgraft.ir.traverse import ancestors, value
from onnxgraft.passes.emit.rows import first_image
from onnxgraft.pipeline.context import Context


def refuse_lost_rows(graph: Graph, ctx: Context, batch: int) -> None:
    """Hold that every map has a row for each picture. Raises Refusal with the node that makes one without."""
    for name in (*ctx.spec().dense_tensors(), *ctx.spec().feature_tensors()):
        tensor = graph.tensor(name)
        if tensor.shape and isinstance(tensor.shape[0], int) and tensor.shape[0] != batch:
            raise Refusal(f"this map has {tensor.shape[0]} rows for a batch of {batch}: a shape of one picture was traced into "
                          "the network; build with --batch 1", tensor.inputs[0].name if tensor.inputs else name)  # fmt: skip


def follow_batch(graph: Graph, spec: DetectorSpec, batch: int) -> None:
    """Shapes of one image that were traced into the network (GroupNorm's Reshape, windows, a Resize to sizes) take the batch.

    Raises:
        Refusal: a node mixes the pictures of a batch, or lays them where they cannot be followed.
    """
    names = [*spec.dense_tensors(), *spec.feature_tensors(), *([spec.semantic.logits_tensor] if spec.semantic else [])]
    network = {id(n) for name in names for n in ancestors(graph.tensor(name))}
    image = graph.gs.inputs[0]
    graph.gs.toposort()
    nodes = [node for node in graph.nodes if id(node) in network]
    axes = follow_pictures(nodes, image)
    shapes = {id(t): list(t.shape) for node in nodes for t in (*node.inputs, *node.outputs) if is_static(t)}
    for node in nodes:
        if any(id(t) in axes for t in node.inputs) and id(node.outputs[0]) in axes:
            _follow(graph, node, axes, shapes, batch)
    forget_shapes(graph)
    for tensor in (t for node in nodes for t in node.outputs):
        if id(tensor) in shapes:  # inference does not see through every operator
            tensor.shape = _times(shapes[id(tensor)], axes.get(id(tensor), 0), batch if id(tensor) in axes else 1)


def _follow(graph: Graph, node: gs.Node, axes: Axes, shapes: dict[int, list[int]], batch: int) -> None:
    """Let one node, whose shapes are those of one picture, take and give `batch` of them."""
    axis, shape = axes[id(node.outputs[0])], shapes.get(id(node.outputs[0]))
    b = Builder(graph, "fix_input", [node.name])
    if node.op == "Resize" and len(node.inputs) > 3 and isinstance(node.inputs[3], gs.Constant):
        sizes = np.array(node.inputs[3].values)
        if not node.attrs.get("axes") and sizes.size == len(shape or ()):
            sizes[axis] *= batch
            node.inputs[3] = b.ints("sizes", sizes.tolist())
    elif node.op in ("Reshape", "Expand"):
        target = node.inputs[1]
        if isinstance(target, gs.Constant) and shape is not None:
            node.inputs[1] = b.ints("shape", _times(shape, axis, batch))
    elif shape is not None and _lays_elsewhere(node, axes, shapes, batch):
        node.op, node.attrs = "Reshape", {}
        node.inputs = [node.inputs[0], b.ints("shape", _times(shape, axis, batch))]
    elif shape is not None and multiplies_vectors(node):
        _vectors_as_rows(b, node, shape, batch, int(node.inputs[1].shape[0]))
    elif shape is not None and (node.op in BROADCASTS or node.op in ("Concat", "MatMul")):
        _repeat_operands(b, node, axes, shapes, batch)


def _vectors_as_rows(b: Builder, node: gs.Node, shape: list[int], batch: int, length: int) -> None:
    """Vectors of so many numbers, one for each picture behind the other, times a matrix: as rows, and a vector again."""
    rows = b.op("Reshape", [node.inputs[0], b.ints("rows", [batch, length])], "rows")
    product = b.op("MatMul", [rows, node.inputs[1]], "product")
    node.op, node.attrs, node.inputs = "Reshape", {}, [product, b.ints("vector", _times(shape, 0, batch))]


def _times(shape: list[int], axis: int, batch: int) -> list[int]:
    return [extent * batch if place == axis else extent for place, extent in enumerate(shape)]


def _lays_elsewhere(node: gs.Node, axes: Axes, shapes: dict[int, list[int]], batch: int) -> bool:
    """Whether a node that only reshapes, given a batch, would not give the shape that its result has to have then."""
    source = shapes.get(id(node.inputs[0]))
    if source is None or node.op not in ("Squeeze", "Unsqueeze", "Flatten", "Gather"):
        return False
    rank, result = len(source), node.outputs[0]
    before = _times(source, axes[id(node.inputs[0])], batch)
    wanted = _times(shapes[id(result)], axes[id(result)], batch)
    if node.op == "Gather":
        return int(node.attrs.get("axis", 0)) % rank == axes[id(node.inputs[0])]
    if node.op == "Flatten":
        at = int(node.attrs.get("axis", 1)) % (rank + 1)
        return wanted != [int(np.prod(before[:at])), int(np.prod(before[at:]))]
    held = node.attrs.get("axes", value(node.inputs[1]) if len(node.inputs) > 1 else None)
    named = [i for i, d in enumerate(source) if d == 1] if held is None else np.asarray(held).reshape(-1).tolist()
    if node.op == "Squeeze":
        gone = {int(a) % rank for a in named}
        return wanted != [d for i, d in enumerate(before) if i not in gone]
    added = {int(a) % (rank + len(named)) for a in named}
    rest = iter(before)
    return wanted != [1 if i in added else next(rest) for i in range(rank + len(named))]


def _repeat_operands(b: Builder, node: gs.Node, axes: Axes, shapes: dict[int, list[int]], batch: int) -> None:
    """Operands that do not come from the image (masks of windows, position tables) have their rows again for each picture."""
    rank, axis = len(shapes[id(node.outputs[0])]), axes[id(node.outputs[0])]
    for place, tensor in enumerate(node.inputs):
        shape = shapes.get(id(tensor))
        if id(tensor) in axes or not shape:
            continue
        own = axis - (rank - len(shape))
        inside = node.op != "MatMul" or own < len(shape) - 2
        if own >= 0 and inside and (shape[own] > 1 or node.op == "Concat"):
            repeats = b.ints("repeats", _times([1] * len(shape), own, batch))
            node.inputs[place] = b.op("Tile", [tensor, repeats], "for_each_picture", dtype=tensor.dtype,
                                      shape=_times(shape, own, batch))  # fmt: skip


def forget_stale_shapes(graph: Graph) -> None:
    """A new axis of the input changes the shapes up to the first convolution."""
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
