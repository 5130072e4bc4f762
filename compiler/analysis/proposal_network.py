"""The RPN on its own: proposals and their objectness are the outputs, nothing is classified."""

from __future__ import annotations

from onnxgraft.analysis.image_input import analyse_input
from onnxgraft.analysis.outputs import recognise_outputs
from onnxgraft.analysis.rpn import analyse_rpn
from onnxgraft.detector import DetectorSpec
from onnxgraft.errors import Refusal
from onnxgraft.graph import Graph, ancestors


def matches(graph: Graph) -> bool:
    """Whether boxes are selected by TopK, pooled by nothing and given out without classes."""
    kinds = {node.op for node in graph.nodes}
    try:
        outputs = recognise_outputs(graph, ("boxes", "scores"))
    except Refusal:
        return False
    return "TopK" in kinds and "RoiAlign" not in kinds and outputs.classes_tensor is None


def analyse_proposal_network(graph: Graph) -> DetectorSpec:
    """Recognise a region proposal network in a simplified graph.

    Raises:
        Refusal: names the node and the reason.
    """
    image = analyse_input(graph)
    outputs = recognise_outputs(graph, ("boxes", "scores"))
    proposals, objectness = graph.tensor(outputs.boxes_tensor or ""), graph.tensor(outputs.scores_tensor or "")
    if any(node.op == "Sigmoid" for node in ancestors(objectness) if node in objectness.inputs):
        raise Refusal("the objectness of an RPN is a logit; this output is a probability", objectness.name)
    rpn = analyse_rpn(graph, proposals, (image.height, image.width))
    return DetectorSpec(family="rpn-fpn" if len(rpn.levels) > 1 else "rpn", image=image, outputs=outputs, rpn=rpn)
