"""Tells which output of an export is what."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector import Outputs
from onnxgraft.errors import Refusal
from onnxgraft.graph import Graph, ancestors

_PREDICTORS = frozenset({"Conv", "ConvTranspose"})


def recognise_outputs(graph: Graph, needed: tuple[str, ...] = ("boxes", "scores", "classes")) -> Outputs:
    """Which output is what, by type, rank and what makes it: boxes are float of rank 2, classes are integers, masks
    are probabilities of rank 4, heatmaps are logits of rank 4 that depend on pooled boxes, semantic logits do not.

    Raises:
        Refusal: an output that fits no role, or a role of `needed` without an output.
    """
    roles: dict[str, str] = {}
    for tensor in graph.gs.outputs:
        role = _role(tensor)
        if role is None or role in roles:
            raise Refusal(
                f"output {tensor.name!r} ({tensor.dtype}, {tensor.shape}) is none that a detectron2 detector has; "
                "--allow-unknown-outputs compiles the rest and leaves it as it is"
            )
        roles[role] = tensor.name
    for role in needed:
        if role not in roles:
            raise Refusal(f"no output looks like the detections' {role}: outputs are "
                          f"{', '.join(repr(t.name) for t in graph.gs.outputs)}")  # fmt: skip
    return Outputs(
        boxes_tensor=roles.get("boxes"),
        scores_tensor=roles.get("scores"),
        classes_tensor=roles.get("classes"),
        masks_tensor=roles.get("masks"),
        heatmaps_tensor=roles.get("heatmaps"),
        semantic_tensor=roles.get("semantic"),
        image_size_tensor=roles.get("image_size"),
    )


def unknown_outputs(graph: Graph) -> list[gs.Tensor]:
    """Outputs that fit no role of a detectron2 detector, or one that an earlier output has."""
    seen: set[str] = set()
    unknown = []
    for tensor in graph.gs.outputs:
        role = _role(tensor)
        if role is None or role in seen:
            unknown.append(tensor)
        seen.add(role or "")
    return unknown


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
        if node.op in _PREDICTORS:
            break
    return "heatmaps"
