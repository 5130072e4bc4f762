"""Reads how a detector pads its image: ImageList.from_tensors, as tracing left it in front of the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors, value

_CHAIN = 16  # nodes between the image and the first convolution, at most


@dataclass(frozen=True)
class Canvas:
    """The canvas that images are padded to.

    Attributes:
        divisor: its sides are the next multiples of this; 1 where images are taken as they are.
        only: (height, width) where every image gets the same one (ViTDet's square padding).
    """

    divisor: int = 1
    only: tuple[int, int] | None = None


def image_paddings(graph: Graph) -> Iterator[gs.Node]:
    """The Pad nodes that pad one picture [3, H, W], in front of the network; a stem's own Pad has a batch axis."""
    tensor: gs.Tensor = graph.gs.inputs[0]
    for _ in range(_CHAIN):
        following = [n for n in tensor.outputs if n.op != "Shape"]
        if not following or following[0].op in ("Conv", "Unsqueeze"):
            return
        if following[0].op == "Pad":
            yield following[0]
        tensor = following[0].outputs[0]


def read_canvas(graph: Graph) -> Canvas | None:
    """The rule by which a graph that is not folded yet pads its image; None where it does not say.

    The traced size stands in the graph as a constant: with other sizes in its place, the graph computes their canvas.
    """
    if not graph.gs.inputs or not graph.gs.inputs[0].shape:
        return None
    pad = next(image_paddings(graph), None)
    if pad is None or len(pad.inputs) < 2 or value(pad.inputs[1]) is not None:
        return None
    sizes = _traced_sizes(graph, pad)
    if not sizes:
        return None
    try:
        one, more = (_padded(graph, pad, sizes, size) for size in ((1, 1), None))
        if one == more:
            return Canvas(only=one)
        return Canvas(one[0]) if one[0] == one[1] and more == (2 * one[0], one[0]) else None
    except Refusal:
        return None


def _traced_sizes(graph: Graph, pad: gs.Node) -> dict[str, np.ndarray]:
    """The constants [height, width] of the traced image that the amounts of a Pad depend on."""
    image = [d for d in graph.gs.inputs[0].shape if d not in (1, 3)]
    found: dict[str, np.ndarray] = {}
    for node in ancestors(pad.inputs[1]):
        for tensor in (*node.inputs, *node.outputs):
            held = value(tensor)
            if held is not None and held.dtype.kind == "i" and held.size == 2 and held.reshape(-1).tolist() == image:
                found[tensor.name] = held
    return found


def _padded(graph: Graph, pad: gs.Node, sizes: dict[str, np.ndarray], size: tuple[int, int] | None) -> tuple[int, int]:
    """The canvas of an image of `size`, or, for None, of the one a pixel higher than the canvas of (1, 1)."""
    if size is None:
        size = _padded(graph, pad, sizes, (1, 1))[0] + 1, 1
    feeds = {name: np.array(size, held.dtype).reshape(held.shape) for name, held in sizes.items()}
    amounts = evaluate(graph, [pad.inputs[1]], feeds)[0].reshape(-1)
    height, width = next(iter(sizes.values())).reshape(-1).tolist()  # what the amounts are still relative to
    return int(amounts[-2]) + height, int(amounts[-1]) + width


def added_by(graph: Graph, pad: gs.Node) -> tuple[int, int]:
    """How many rows and columns a Pad of the image adds at the bottom and at the right.

    Raises:
        Refusal: it adds them elsewhere, or something else than zeros.
    """
    image = graph.gs.inputs[0]
    feeds = {image.name: np.zeros([int(d) for d in image.shape], image.dtype or np.float32)}
    if pad.attrs.get("mode", "constant") != "constant":
        raise Refusal(f"the image is padded in mode {pad.attrs['mode']!r}; detectron2 pads with zeros", pad.name)
    inputs = [pad.inputs[1], *(t for t in pad.inputs[2:3] if t.name)]
    amounts, *filled = (v.reshape(-1) for v in evaluate(graph, inputs, feeds))
    if any(v.any() for v in filled):
        raise Refusal(f"the image is padded with {filled[0].tolist()}; detectron2 pads with zeros", pad.name)
    if len(amounts) < 4 or amounts[:-2].any() or (amounts < 0).any():
        raise Refusal(f"the image is padded by {amounts.tolist()}; detectron2 pads below and at the right only", pad.name)
    return int(amounts[-2]), int(amounts[-1])
