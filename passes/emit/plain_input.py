"""Gives a graph the one input that the analysis knows, a picture float32 [3, H, W], whatever form it was exported with."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import ImageInput
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import forget_shapes, infer_shapes
from onnxgraft.ir.traverse import ancestors, descendants
from onnxgraft.ir.value import constant

_MOVES = frozenset({"Transpose", "Squeeze", "Gather", "Reshape", "Slice", "Concat", "Split"})  # of pixels, to other places


def make_plain(graph: Graph) -> str:
    """Turn an input [1, 3, H, W], [H, W, 3], [1, H, W, 3] or of integers into float32 [3, H, W], where that is the same.

    Returns:
        the form that it had, such as "uint8 [1, 256, 320, 3]"; empty where no input is a picture.

    Raises:
        Refusal: integers that are calculated with before they become floating; several images at once.
    """
    images = [t for t in graph.gs.inputs if len(t.shape or ()) in (3, 4) and 3 in (t.shape[-1], t.shape[-3])]
    if len(images) != 1:
        return ""
    old = images[0]
    shape = list(old.shape)
    if len(shape) == 4 and isinstance(shape[0], (int, np.integer)) and shape[0] != 1:
        raise Refusal(f"the export takes {shape[0]} images at once: export it for one; --batch makes the build take more",
                      next((n.name for n in old.outputs), old.name))  # fmt: skip
    shape[:-3] = [1] * (len(shape) - 3)  # a batch that is left open is one of any size
    last = shape[-3] != 3
    picture = [3, *(shape[-3:-1] if last else shape[-2:])]
    whole = old.dtype is not None and np.issubdtype(np.dtype(old.dtype), np.integer)
    if whole:
        _let_float(old)
    form = f"{np.dtype(old.dtype) if old.dtype is not None else '?'} {list(old.shape)}"
    if shape == picture and not whole:
        return form
    image = gs.Variable(old.name, np.float32, picture)
    old.name = graph.fresh("exported_image")
    old.dtype = np.dtype(np.float32)
    builder = Builder(graph, "plain_input", [])
    tensor: gs.Tensor = image
    if last:
        tensor = builder.op("Transpose", [tensor], "height_width_channel", shape=[*picture[1:], 3], perm=[1, 2, 0])
    if len(shape) == 4:
        tensor = builder.op("Unsqueeze", [tensor, builder.ints("axis", [0])], "one_picture", shape=shape)
    readers = list(old.outputs)
    graph.gs.inputs[:] = [image if t is old else t for t in graph.gs.inputs]
    graph.redirect(readers, old, tensor)
    graph.cleanup()
    forget_shapes(graph)
    infer_shapes(graph)
    return form


def form_note(form: str, image: ImageInput) -> list[str]:
    """What the export takes, where that is not the one form of a build's input; `form` is as `make_plain` returns it."""
    if form.startswith("float32 [3, ") and image.usual:
        return []
    return [f"the export takes {form}, {image.exported_order}, levels of 0..{image.white:.0f}: the build takes one form for "
            f"all, float32 NCHW, {image.order}, 0..255"]  # fmt: skip


def _let_float(image: gs.Tensor) -> None:
    """Let what is moved before a Cast makes it floating be so from the start. Raises Refusal: integers are calculated with."""
    waiting: list[gs.Tensor] = [image]
    while waiting:
        for node in waiting.pop().outputs:
            if node.op in _MOVES | {"Unsqueeze", "Identity"}:
                for moved in node.outputs:
                    moved.dtype = np.dtype(np.float32)
                waiting += node.outputs
            elif node.op not in ("Cast", "Shape"):
                raise Refusal(f"this {node.op} calculates with the image's integers before they become floating", node.name)


def add_batch_axis(graph: Graph, image: ImageInput, batch: int) -> None:
    """Make the picture [3, H, W] that the analysis knows a batch [batch, 3, H, W].

    The Unsqueeze of the export goes. A chain that does more to axes, or turns channels around, gives way to
    (image - mean) / std.
    """
    taken, normalized = graph.gs.inputs[0], graph.tensor(image.normalized_tensor)
    moving = descendants(taken)
    chain = [n for n in ancestors(normalized) if any(id(t) in moving for t in n.inputs)]
    axes = [n for n in chain if n.op == "Unsqueeze"]
    taken.shape = [batch, 3, image.height, image.width]
    if len(axes) == 1 and not image.reversed and not any(n.op in _MOVES for n in chain):
        (node,) = axes
        graph.replace(node.outputs[0], node.inputs[0])
        node.outputs.clear()
        node.inputs.clear()
        return
    b = Builder(graph, "fix_input", [n.name for n in normalized.inputs])
    mean, std = (constant(hint, np.array(numbers, np.float32).reshape(1, 3, 1, 1))
                 for hint, numbers in (("mean", image.mean), ("std", image.std)))  # fmt: skip
    centred = (b.of(taken) - mean).named("centred")
    graph.replace(normalized, (centred / std).named("scaled").handle)
    graph.cleanup()
