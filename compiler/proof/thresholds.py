"""Lets another score threshold hold in a graph, where comparisons with the old one decide."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.traverse import ancestors, scalar

_SAME = 1e-6
_COMPARISONS = {"Greater", "Less", "GreaterOrEqual", "LessOrEqual"}


def same_number(tensor: gs.Tensor, number: float) -> bool:
    """Whether a tensor is this constant, also through the casts of a graph that was not folded."""
    held = number_of(tensor)
    return held is not None and abs(held - number) <= _SAME


def number_of(tensor: gs.Tensor) -> float | None:
    """A constant scalar, through the casts of a graph that was not folded; else None."""
    while (number := scalar(tensor)) is None and tensor.inputs and tensor.inputs[0].op in ("Cast", "Identity"):
        tensor = tensor.inputs[0].inputs[0]
    return number


def lower_comparisons(scores: gs.Tensor | None, old: float, new: float) -> bool:
    """Let what a tensor depends on be compared with a new threshold, in place. False where the comparison with the old one is
    not found, or is one of several: boxes are compared with 0 as well."""
    changed = False
    for node in ancestors(scores) if scores is not None and old > _SAME else ():
        for index, tensor in enumerate(node.inputs if node.op in _COMPARISONS else ()):
            if same_number(tensor, old):
                node.inputs[index] = gs.Constant(f"{node.name}/lowered", np.array(new, np.float32))
                changed = True
    return changed
