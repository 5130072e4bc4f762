"""The RPN on its own: proposals and their objectness are the outputs, nothing is classified."""

from __future__ import annotations

from onnxgraft.analysis.image_input import analyse_input
from onnxgraft.analysis.outputs import recognise_outputs, sort_outputs
from onnxgraft.analysis.provenance import refuse_change
from onnxgraft.analysis.rpn import analyse_rpn
from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors


def matches(graph: Graph) -> bool:
    """Whether boxes are selected by TopK, pooled by nothing and given out without classes."""
    kinds = {node.op for node in graph.nodes}
    known, _ = sort_outputs(graph)
    return "TopK" in kinds and "RoiAlign" not in kinds and Role.BOXES in known and Role.CLASSES not in known


def analyse_proposal_network(graph: Graph) -> DetectorSpec:
    """Recognise a region proposal network in a simplified graph.

    Raises:
        Refusal: names the node and the reason.
    """
    image = analyse_input(graph)
    outputs = recognise_outputs(graph, (Role.BOXES, Role.SCORES))
    proposals, objectness = graph.tensor(outputs.boxes_tensor or ""), graph.tensor(outputs.scores_tensor or "")
    if any(node.op == "Sigmoid" for node in ancestors(objectness) if node in objectness.inputs):
        raise Refusal("the objectness of an RPN is a logit; this output is a probability", objectness.name)
    refuse_change(objectness, lambda t: bool(t.inputs) and t.inputs[0].op == "TopK", "objectness of the proposals")
    rpn = analyse_rpn(graph, proposals, (image.height, image.width))
    if rpn.probabilities:
        raise Refusal("these proposals are ranked by probabilities, and given out with logits; detectron2 ranks them by logits",
                      proposals.name)  # fmt: skip
    return DetectorSpec(family="rpn-fpn" if len(rpn.levels) > 1 else "rpn", image=image, outputs=outputs, rpn=rpn)
