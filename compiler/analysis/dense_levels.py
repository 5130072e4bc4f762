"""What dense heads of all kinds have on each of their levels: a stride of its own, and one feature map under two towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import DenseLevel
from onnxgraft.errors import Refusal
from onnxgraft.ir.traverse import ancestors


def strides_apart(levels: Sequence[DenseLevel]) -> list[DenseLevel]:
    """Levels of one location show no stride, and on a small canvas several have one: each doubles the one before it."""
    found: list[DenseLevel] = []
    for level in levels:
        if found and level.stride <= found[-1].stride and level.height == level.width == 1:
            stride = 2 * found[-1].stride
            level = replace(level, stride=stride, anchor_offset=level.anchor_offset * level.stride / stride)
        found.append(level)
    return found


def shared_feature(logits: gs.Tensor, deltas: gs.Tensor) -> gs.Tensor:
    """The feature map under both towers: the nearest tensor above the deltas that the logits depend on too.

    Raises:
        Refusal: there is none.
    """
    above = {id(t) for node in ancestors(logits) for t in node.inputs if isinstance(t, gs.Variable)}
    for node in ancestors(deltas):
        for tensor in node.inputs:
            if id(tensor) in above and len(tensor.shape or ()) == 4:
                return tensor
    raise Refusal("class logits and deltas share no feature map", deltas.inputs[0].name)
