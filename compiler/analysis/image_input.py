"""Recognises how the export normalises its image: measured on the graph itself."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.provenance import snap
from onnxgraft.detector.spec import WHITE, ImageInput
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import value

_PREPROCESSING = {"Sub", "Div", "Mul", "Add", "Pad", "Unsqueeze", "Gather", "Cast", "Identity", "Reshape", "Concat",
                  "Transpose", "Squeeze", "Slice", "Split"}  # fmt: skip
_PROBE = 32  # side of the flat pictures that measure the normalisation
_UNIT_STD = 0.5  # a deviation up to this, with a mean up to 1, is of pictures whose levels are 0..1
_UNIT_STD_AND_MEAN = 2.0  # the same where there is a mean: of levels of 0..255 it would change nothing that can be seen
_NO_MEAN = 1e-3
_IMAGENET_RED_MINUS_BLUE = 5.0  # the red mean is well above the blue one in every ImageNet-like statistic


def analyse_input(graph: Graph) -> ImageInput:
    """Mean, std and channel order of the normalisation between the input and the first convolution.

    Raises:
        Refusal: not exactly one float image [3, H, W] of fixed size, or a preprocessing that is not affine per channel.
    """
    image = _image_tensor(graph)
    _, height, width = (int(d) for d in image.shape)
    normalized, chain = _first_convolution_input(image)
    constants = [float(v) for node in chain for t in node.inputs if (held := value(t)) is not None and held.size <= 3
                 for v in np.asarray(held, np.float64).reshape(-1)]  # fmt: skip

    def respond(levels: tuple[float, float, float]) -> np.ndarray:
        picture = np.empty((3, _PROBE, _PROBE), np.float32)
        picture[:] = np.array(levels, np.float32)[:, None, None]
        answer = evaluate(graph, [normalized], {image.name: picture})[0]
        return answer.reshape(-1, *answer.shape[-2:])[:, 0, 0]

    zero, full = respond((0, 0, 0)).astype(np.float64), respond((255, 255, 255)).astype(np.float64)
    if zero.shape != (3,) or not np.all(np.abs(full - zero) > 1e-9):
        raise Refusal("the first convolution does not read a normalised three-channel image", chain[0].name)
    std = WHITE / (full - zero)
    mixed = (respond((51, 102, 204)).astype(np.float64) - zero) * std
    if np.allclose(mixed, [51, 102, 204], atol=0.1):
        flipped = False
    elif np.allclose(mixed, [204, 102, 51], atol=0.1):
        flipped = True
    else:
        raise Refusal("the preprocessing mixes colour channels in a way that is no plain order", chain[0].name)
    std_read = [snap(s, constants) or s for s in std]
    mean_read = [snap(m, constants) or m for m in -zero * std]
    _refuse_more(graph, image, normalized, mean_read, std_read, chain[0].name, flipped)
    most = _UNIT_STD_AND_MEAN if max(np.abs(mean_read)) > _NO_MEAN else _UNIT_STD
    unit = max(np.abs(mean_read)) <= 1 and max(np.abs(std_read)) <= most  # made for levels of 0..1
    if unit:
        mean_read, std_read = ([snap(255 * v, [*constants, *(255 * c for c in constants)]) or 255 * v for v in read]
                               for read in (mean_read, std_read))  # fmt: skip
    order, known = _order(mean_read, chain if flipped else [])
    return ImageInput(
        input_tensor=image.name,
        height=height,
        width=width,
        mean=(mean_read[0], mean_read[1], mean_read[2]),
        std=(std_read[0], std_read[1], std_read[2]),
        order=order,
        order_known=known,
        normalized_tensor=normalized.name,
        reversed=flipped,
        white=1.0 if unit else WHITE,
    )


def _refuse_more(
    graph: Graph, image: gs.Tensor, normalized: gs.Tensor, mean: list[float], std: list[float], node: str, flipped: bool
) -> None:
    """Hold that nothing else happens to the pixels of a picture. Raises Refusal."""
    picture = np.random.Generator(np.random.Philox(13)).uniform(0, 255, (3, _PROBE, _PROBE)).astype(np.float32)
    expected = (picture[::-1] if flipped else picture) - np.array(mean)[:, None, None]
    expected = expected / np.array(std)[:, None, None]
    found = evaluate(graph, [normalized], {image.name: picture})[0]
    if found.shape[-3:] != expected.shape or not np.allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-3):
        raise Refusal("the preprocessing does more than subtract a mean and divide by a deviation", node)


def _order(mean: list[float], turning: list[gs.Node]) -> tuple[str, bool]:
    """Which channel the network reads first, and whether that is known: told by the ImageNet statistics (red is brighter than
    blue).

    Args:
        turning: the nodes that turn the export's channels around, if any do.

    Raises:
        Refusal: they do, and nothing tells which order is which.
    """
    redder = mean[0] - mean[2]
    known = bool(abs(redder) > _IMAGENET_RED_MINUS_BLUE)
    if turning and not known:
        at = next((n for n in turning if n.op in ("Slice", "Gather", "Concat")), turning[0])
        raise Refusal("the export turns the image's channels around, and its mean does not tell which order the network reads "
                      "then: export it without that step", at.name)  # fmt: skip
    return "RGB" if known and redder > 0 else "BGR", known


def _image_tensor(graph: Graph) -> gs.Tensor:
    images = [t for t in graph.gs.inputs if t.shape is not None and len(t.shape) == 3]
    others = [t for t in graph.gs.inputs if t not in images and not is_proposals(t)]
    if others or len(images) != 1 or len(graph.gs.inputs) > 2:
        seen = ", ".join(f"{t.name!r} {t.shape}" for t in graph.gs.inputs)
        raise Refusal(f"expected one CHW image as the only input, found {seen or 'none'}: is this a detectron2 export?")
    image = images[0]
    if not all(isinstance(d, (int, np.integer)) for d in image.shape) or image.shape[0] != 3:
        raise Refusal(f"the image input {image.name!r} has shape {image.shape}; expected [3, height, width], all fixed")
    if image.dtype is None or np.dtype(image.dtype) != np.float32:
        raise Refusal(f"the image input {image.name!r} is {image.dtype}; expected float32")
    return image


def is_proposals(tensor: gs.Tensor) -> bool:
    """Whether an input looks like the boxes that a Fast R-CNN classifies: [R, 4]."""
    return tensor.shape is not None and len(tensor.shape) == 2 and tensor.shape[1] == 4


def _first_convolution_input(image: gs.Tensor) -> tuple[gs.Tensor, list[gs.Node]]:
    """What the first convolution reads, and the nodes between the image and it. Raises Refusal."""
    chain: list[gs.Node] = []
    queue: list[gs.Tensor] = [image]
    while queue:
        tensor = queue.pop(0)
        for node in tensor.outputs:
            if node.op == "Conv" or (node.op == "Pad" and len(tensor.shape or ()) == 4):  # a stem may pad on its own
                return tensor, chain
            if node.op in _PREPROCESSING and node not in chain:
                chain.append(node)
                queue += node.outputs
            elif node.op == "Resize":
                raise Refusal("the image is resized inside the graph", node.name)
    raise Refusal(f"no convolution reads the image input {image.name!r}: no detector of detectron2")
