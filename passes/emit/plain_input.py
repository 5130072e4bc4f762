"""Gives a graph the one input that the analysis knows, a picture float32 [3, H, W], whatever form it was exported with."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import forget_shapes, infer_shapes

_MOVES = {"Transpose", "Unsqueeze", "Squeeze", "Gather", "Identity", "Reshape", "Slice"}  # what an integer picture may pass


def make_plain(graph: Graph) -> None:
    """Turn an input [1, 3, H, W], [H, W, 3], [1, H, W, 3] or of integers into float32 [3, H, W], where that is the same.

    Raises:
        Refusal: integers that are calculated with before they become floating.
    """
    images = [t for t in graph.gs.inputs if len(t.shape or ()) in (3, 4) and 3 in (t.shape[-1], t.shape[-3])]
    if len(images) != 1:
        return
    old = images[0]
    shape = list(old.shape)
    if len(shape) == 4 and shape[0] != 1:
        return
    last = shape[-3] != 3
    picture = [3, *(shape[-3:-1] if last else shape[-2:])]
    whole = old.dtype is not None and np.issubdtype(np.dtype(old.dtype), np.integer)
    if whole:
        _refuse_arithmetic(old)
    if shape == picture and not whole:
        return
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


def _refuse_arithmetic(image: gs.Tensor) -> None:
    """Hold that integers are only moved until a Cast makes them floating."""
    waiting: list[gs.Tensor] = [image]
    while waiting:
        for node in waiting.pop().outputs:
            if node.op in _MOVES:
                waiting += node.outputs
            elif node.op not in ("Cast", "Shape"):
                raise Refusal(f"this {node.op} calculates with the image's integers before they become floating", node.name)
