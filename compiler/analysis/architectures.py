"""Architectures that no family here stands for, told by their structure: a model that is refused hears which one it is."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors_before, producer

_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
_SHAPES = frozenset({"Shape", "Size"})


def unknown_architecture(graph: Graph) -> Refusal:
    """The refusal of a simplified graph that no family knows: names the architecture and its node where they are told."""
    for tell in (_learnt_queries, _peaks, _centres_and_offsets):
        found = tell(graph)
        if found is not None:
            return found
    kinds = sorted({node.op for node in graph.nodes})
    return Refusal(
        "no family of detectron2: neither boxes pooled by RoiAlign, nor classified boxes that are suppressed; this model has "
        f"{', '.join(kinds[:12])}{' ...' if len(kinds) > 12 else ''}: is it a detector's export?"
    )


def _learnt_queries(graph: Graph) -> Refusal | None:
    """DETR's and Mask2Former's decoders: what attends to the image is, in the first layer, the same for all images."""
    seen = _of_image(graph)
    for node in (n for n in graph.nodes if n.op == "Softmax"):
        for product in (n for n in ancestors_before(node.inputs[0], _PRODUCTS) if n.op in ("MatMul", "Einsum")):
            asking, asked = product.inputs[:2]
            if id(asking) not in seen and id(asked) in seen:
                return Refusal(
                    "queries that training learnt attend to the image here, and each gives the class and the box or mask of "
                    "one object, as in DETR, MaskFormer and Mask2Former: a set of predictions without anchors, proposals or "
                    "suppression, which is no family of detectron2's own; nothing here stands for it",
                    node.name,
                )
    return None


def _of_image(graph: Graph) -> set[int]:
    """Ids of the tensors whose values depend on an input, and not on its shape alone."""
    waiting: list[gs.Tensor] = list(graph.gs.inputs)
    found = {id(t) for t in waiting}
    while waiting:
        for node in waiting.pop().outputs:
            for tensor in node.outputs if node.op not in _SHAPES else ():
                if id(tensor) not in found:
                    found.add(id(tensor))
                    waiting.append(tensor)
    return found


def _peaks(graph: Graph) -> Refusal | None:
    """A heatmap compared with the largest of each neighbourhood: Panoptic-DeepLab's and CenterNet's suppression."""
    for node in (n for n in graph.nodes if n.op == "MaxPool"):
        compared = [n for n in node.outputs[0].outputs if n.op == "Equal"]
        if any(_before(node.inputs[0]) is _before(t) for n in compared for t in n.inputs if t is not node.outputs[0]):
            grouped = any(n.op == "ArgMin" for n in graph.nodes)
            what = (
                "pixels are grouped around them by their offsets, as in Panoptic-DeepLab, which detects no boxes"
                if grouped else "objects are read off at them, as in CenterNet, which suppresses no boxes"
            )  # fmt: skip
            return Refusal(f"the peaks of a heatmap of centres are found here, and {what}; nothing here stands for it",
                           node.name)  # fmt: skip
    return None


def _before(tensor: gs.Tensor) -> gs.Tensor:
    """What a tensor is another shape of."""
    while (node := producer(tensor)) is not None and node.op in ("Squeeze", "Unsqueeze", "Reshape", "Identity"):
        tensor = node.inputs[0]
    return tensor


def _centres_and_offsets(graph: Graph) -> Refusal | None:
    """Panoptic-DeepLab's maps without its post-processing: classes, a heatmap of centres, two offsets, of every pixel."""
    maps = [t for t in graph.gs.outputs if t.shape is not None and len(t.shape) == 4]
    channels = sorted(t.shape[1] for t in maps if isinstance(t.shape[1], int))
    sizes = {tuple(t.shape[2:]) for t in maps}
    if len(maps) != 3 or len(graph.gs.outputs) != 3 or len(sizes) != 1 or channels[:2] != [1, 2]:
        return None
    centres = next(t for t in maps if t.shape[1] == 1)
    return Refusal(
        "three maps of every pixel, of classes, of centres and of two offsets to them, as in Panoptic-DeepLab, which groups "
        "pixels and detects no boxes; nothing here stands for it", centres.name,
    )  # fmt: skip
