"""Recognises the mask head: from pooled features to the mask of each detection's class."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.analysis.provenance import refuse_change
from onnxgraft.detector.spec import BoxHead, MaskHead
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.traverse import back_through, dims, first_ancestor, producer


def analyse_mask_head(graph: Graph, masks: gs.Tensor, box_head: BoxHead) -> MaskHead:
    """The mask predictor whose probabilities are the output `masks` [D, 1, M, M].

    Raises:
        Refusal: no sigmoid, no predictor convolution, or a channel count that fits no class rule.
    """
    sigmoid = first_ancestor(masks, lambda n: n.op == "Sigmoid")
    predictor = first_ancestor(masks, lambda n: n.op in ("Conv", "ConvTranspose"))
    if sigmoid is None or predictor is None:
        raise Refusal("the masks do not come from a convolution and a sigmoid", masks.name)
    refuse_change(masks, lambda t: t is sigmoid.outputs[0], "masks")
    refuse_change(sigmoid.inputs[0], lambda t: t is predictor.outputs[0], "mask logits")
    logits = predictor.outputs[0]
    if logits.shape is None or len(logits.shape) != 4:
        raise Refusal(f"the mask logits have shape {logits.shape}, expected [D, C, M, M]", predictor.name)
    channels, height, width = dims_of_masks(logits, predictor)
    if height != width:
        raise Refusal(f"masks of {height}x{width} are not square", predictor.name)
    if channels not in (1, box_head.num_classes + box_head.first_class):
        raise Refusal(f"{channels} mask channels for {box_head.num_classes} classes", predictor.name)
    return MaskHead(
        resolution=height,
        class_agnostic=channels == 1 and box_head.num_classes > 1,
        logits_tensor=logits.name,
    )


def refuse_pasted(masks: gs.Tensor) -> None:
    """Raises Refusal for masks that a loop over detections pastes into the picture, as torchvision's post-processing does."""
    node = producer(back_through(masks, RESHAPING))
    if node is not None and node.op == "Loop":
        raise Refusal("the masks are pasted into the picture here, one after the other, as torchvision's post-processing does: "
                      "export their probabilities, with model.transform.postprocess = lambda detections, *sizes: detections",
                      node.name)  # fmt: skip


def dims_of_masks(logits: gs.Tensor, predictor: gs.Node) -> tuple[int, int, int]:
    shape = list(logits.shape)
    if not all(isinstance(d, int) for d in shape[1:]):
        raise Refusal(f"the mask logits have shape {shape}: size not fixed", predictor.name)
    probe = gs.Variable(logits.name, shape=[1, *shape[1:]])
    _, channels, height, width = dims(probe, 4, "the mask logits")
    return channels, height, width
