"""Reads how a detector pads its image: ImageList.from_tensors, as tracing left it in front of the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors, producer, value

_BATCHED = 4  # axes of an image with a batch axis
_IN_PLACE = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")  # leave what keeps its size alone
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


def _resize_in_front(graph: Graph) -> gs.Node | None:
    """The Resize between the image and the network, which torchvision's detectors have."""
    tensor: gs.Tensor = graph.gs.inputs[0]
    for _ in range(_CHAIN):
        resize = next((n for n in tensor.outputs if n.op == "Resize"), None)
        if resize is not None:
            return resize
        following = [n for n in tensor.outputs if n.op != "Shape"]
        if len(following) != 1 or following[0].op == "Conv":
            return None
        tensor = following[0].outputs[0]
    return None


def refuse_own_resize(graph: Graph, size: tuple[int, int]) -> None:
    """A file that resizes pictures itself says nothing of a picture of another size (height, width) than its own.

    Raises:
        Refusal: it does; names its Resize.
    """
    resize = _resize_in_front(graph)
    if resize is not None:
        own = "x".join(str(d) for d in graph.gs.inputs[0].shape[-2:])
        raise Refusal(f"the file resizes pictures itself, as torchvision's detectors do: for one of {size[0]}x{size[1]} it "
                      f"gives other answers than for the same pixels on a canvas; build for whole pictures of {own}, "
                      "without --exact-padding and --content-size", resize.name)  # fmt: skip


def take_resize_out(graph: Graph) -> None:
    """Let the resize that torchvision's detectors do in front of the network give way, where it leaves the image as it is.

    Raises:
        Refusal: it changes the image's size, so that another canvas has to be taken.
    """
    resize = _resize_in_front(graph)
    if resize is None:
        return
    before = resize.inputs[0]
    _refuse_another_size(graph, resize)
    graph.replace(resize.outputs[0], before)
    batched = producer(before)
    for taken in list(before.outputs):  # the batch axis, which only the resize needed
        index = value(taken.inputs[1]) if taken.op == "Gather" and len(taken.inputs) > 1 else None
        one = index is not None and index.size == 1 and not index.any() and taken.attrs.get("axis", 0) == 0 and index.ndim == 0
        if batched is not None and batched.op == "Unsqueeze" and len(before.shape or ()) == _BATCHED and one:
            graph.replace(taken.outputs[0], batched.inputs[0])
    graph.cleanup()


def _refuse_another_size(graph: Graph, resize: gs.Node) -> None:
    """Raises Refusal unless a Resize gives its image [1, 3, height, width] as it is."""
    image = graph.gs.inputs[0]
    height, width = (int(d) for d in image.shape[-2:])
    feeds = {image.name: np.zeros([int(d) for d in image.shape], image.dtype or np.float32)}
    given = next((t for t in resize.inputs[3:1:-1] if t.name), None)
    plain = given is not None and resize.attrs.get("coordinate_transformation_mode", "half_pixel") in _IN_PLACE
    if given is None or not plain or resize.attrs.get("axes"):
        raise Refusal("the image is resized inside the graph, in a way that is not known: export without it", resize.name)
    wanted = evaluate(graph, [given], feeds)[0].reshape(-1).astype(np.float64)
    if given is resize.inputs[2]:
        wanted = wanted * [1, 3, height, width]
    if wanted.tolist() != [1, 3, height, width]:
        to = "x".join(f"{side:g}" for side in wanted[-2:])
        raise Refusal(f"an image of {height}x{width} is resized to {to} inside the graph, as torchvision's detectors do: "
                      "compile it where that changes nothing; export with min_size and max_size the smaller and the larger "
                      "side of the canvas, and give --size that canvas", resize.name)  # fmt: skip


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
