"""The Semantic FPN family: a class for every cell of the canvas, and no instances."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.analysis.image_input import analyse_input
from onnxgraft.analysis.semantic_head import analyse_semantic_head
from onnxgraft.detector.spec import DetectorSpec, Outputs
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors, producer

# What sem_seg_postprocess does to the logits: enlarge, cut to the image, enlarge again.
_POSTPROCESSING = frozenset({"Resize", "Split", "Squeeze", "Slice", "Expand", "Gather", "Unsqueeze", "Identity", "Reshape"})
_SELECTING = frozenset({"TopK", "NonMaxSuppression", "RoiAlign"})


def matches(graph: Graph) -> bool:
    """Whether the only output is a map predicted from the sum of several levels, and no boxes are selected on the way."""
    maps = [t for t in graph.gs.outputs if t.shape is not None and len(t.shape) in (3, 4)]
    if len(graph.gs.outputs) != 1 or not maps or any(node.op in _SELECTING for node in graph.nodes):
        return False
    predictor = producer(_predicted(maps[0]))
    merged = producer(predictor.inputs[0]) if predictor is not None and predictor.op == "Conv" else None
    return merged is not None and merged.op in ("Add", "Sum")


def analyse_semantic(graph: Graph) -> DetectorSpec:
    """Recognise a semantic segmentation network in a simplified graph.

    detectron2's own export script leaves the post-processing in the graph, an output [C, H, W]: the logits that it
    starts from count as the output.

    Raises:
        Refusal: names the node and the reason.
    """
    image = analyse_input(graph)
    (output,) = graph.gs.outputs
    logits = _predicted(output)
    if len(logits.shape or []) != 4:
        raise Refusal(f"the output {output.name!r} of shape {output.shape} comes from no map of logits", output.name)
    if producer(logits) is None or not any(node.op == "Conv" for node in ancestors(logits)):
        raise Refusal(f"no convolution predicts the output {output.name!r}", output.name)
    semantic = analyse_semantic_head(graph, logits, image)
    outputs = Outputs(boxes_tensor=None, scores_tensor=None, classes_tensor=None, semantic_tensor=logits.name)
    return DetectorSpec(family="semantic-fpn", image=image, outputs=outputs, semantic=semantic)


def _predicted(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor that the post-processing, if there is any, starts from."""
    start = tensor
    while (node := producer(tensor)) is not None and node.op in _POSTPROCESSING:
        tensor = node.inputs[0]
        if node.op == "Resize":
            start = tensor
    return start
