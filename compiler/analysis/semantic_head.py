"""Recognises the semantic segmentation head: class logits for every cell of the canvas."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import ImageInput, SemanticHead
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import dims


def analyse_semantic_head(graph: Graph, logits: gs.Tensor, image: ImageInput) -> SemanticHead:
    """The head whose output is `logits` [1, C, H / stride, W / stride].

    Raises:
        Refusal: logits whose size is no whole part of the image.
    """
    _, classes, height, width = dims(logits, 4, "the semantic logits")
    stride = image.height // height
    if (height * stride, width * stride) != (image.height, image.width):
        raise Refusal(f"semantic logits of {height}x{width} are no whole part of {image.height}x{image.width}", logits.name)
    return SemanticHead(num_classes=classes, stride=stride, logits_tensor=logits.name)
