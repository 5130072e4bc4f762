"""Tells which output of an export is what."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import Outputs
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph, ancestors
from onnxgraft.ir.ops import CONVOLUTIONS

_MAPS = frozenset({"masks", "heatmaps", "semantic"})
_ROLES = ("boxes", "scores", "classes", "masks", "heatmaps", "semantic", "image_size")


def recognise_outputs(graph: Graph, needed: tuple[str, ...] = ("boxes", "scores", "classes")) -> Outputs:
    """Which output is what, by type, rank and what makes it: boxes are float of rank 2, classes are integers, masks
    are probabilities of rank 4, heatmaps are logits of rank 4 that depend on pooled boxes, semantic logits do not.

    Raises:
        Refusal: an output that fits no role, or a role of `needed` without an output.
    """
    known, unknown = sort_outputs(graph)
    for tensor, reason in unknown:
        raise Refusal(
            f"output {tensor.name!r} ({tensor.dtype}, {tensor.shape}) {reason}; --allow-unknown-outputs compiles the rest and "
            "leaves it as it is",
            tensor.inputs[0].name if tensor.inputs else None,
        )
    for role in needed:
        if role not in known:
            raise Refusal(f"no output looks like the detections' {role}: outputs are "
                          f"{', '.join(repr(t.name) for t in graph.gs.outputs)}")  # fmt: skip
    return Outputs(**{f"{role}_tensor": known[role].name if role in known else None for role in _ROLES})


def sort_outputs(graph: Graph) -> tuple[dict[str, gs.Tensor], list[tuple[gs.Tensor, str]]]:
    """The outputs of a detector by their roles, and those that it cannot have, each with the reason.

    Two outputs of one role are two detectors in one graph: the first one counts. Maps need a network that pools boxes, or
    one that only segments.
    """
    known: dict[str, gs.Tensor] = {}
    unknown: list[tuple[gs.Tensor, str]] = []
    detects = any(_role(tensor) == "boxes" for tensor in graph.gs.outputs)
    pools = any(node.op == "RoiAlign" for node in graph.nodes)
    for tensor in graph.gs.outputs:
        role = _role(tensor)
        if not detects and role is None and tensor.shape is not None and len(tensor.shape) == 3:
            role = "semantic"  # after the post-processing that detectron2's script leaves in the graph
        if role is None:
            unknown.append((tensor, "is none that a detectron2 detector has"))
        elif role in _MAPS and detects and not pools:
            unknown.append((tensor, "is none that a detector without RoIAlign has"))
        elif role in known:
            plural = role if role.endswith("s") else f"{role} logits"
            first = known[role].name
            reason = f"looks like {plural}, which output {first!r} gives: an output of your own, or a second detector"
            unknown.append((tensor, reason))
        else:
            known[role] = tensor
    return known, unknown


def _role(tensor: gs.Tensor) -> str | None:
    if isinstance(tensor, gs.Constant) or tensor.shape == [2]:
        return "image_size"
    rank = len(tensor.shape) if tensor.shape is not None else None
    if tensor.dtype is None or not np.issubdtype(np.dtype(tensor.dtype), np.floating):
        return "classes" if rank == 1 else None
    return _map_role(tensor) if rank == 4 else {1: "scores", 2: "boxes"}.get(rank or 0)


def _map_role(tensor: gs.Tensor) -> str:
    """What a rank-4 output is, told by the nearest node above it that says so."""
    above = list(ancestors(tensor))
    if not any(node.op == "RoiAlign" for node in above):
        return "semantic"
    for node in above:
        if node.op == "Sigmoid":
            return "masks"
        if node.op in CONVOLUTIONS:
            break
    return "heatmaps"
