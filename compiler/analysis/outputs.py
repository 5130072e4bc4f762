"""Tells which output of an export is what."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.outputs import MAPS, Role
from onnxgraft.detector.spec import Outputs
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import CONVOLUTIONS
from onnxgraft.ir.traverse import ancestors, producer


def recognise_outputs(graph: Graph, needed: tuple[Role, ...] = (Role.BOXES, Role.SCORES, Role.CLASSES)) -> Outputs:
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
            raise Refusal(f"no output looks like the detections' {role.value}: outputs are "
                          f"{', '.join(repr(t.name) for t in graph.gs.outputs)}")  # fmt: skip
    return Outputs.of({role: tensor.name for role, tensor in known.items()})


def sort_outputs(graph: Graph) -> tuple[dict[Role, gs.Tensor], list[tuple[gs.Tensor, str]]]:
    """The outputs of a detector by their roles, and those that it cannot have, each with the reason.

    Shapes are those of a simplified export: boxes float [n, 4], scores float [n], classes int [n], maps of rank 4.

    Two outputs of one role are two detectors in one graph: the first one counts. Maps need a network that pools boxes, or
    one that only segments.
    """
    known: dict[Role, gs.Tensor] = {}
    unknown: list[tuple[gs.Tensor, str]] = []
    detects = any(_role(tensor) is Role.BOXES for tensor in graph.gs.outputs)
    pools = any(node.op == "RoiAlign" for node in graph.nodes)
    for tensor in graph.gs.outputs:
        role = _role(tensor)
        if not detects and role is None and len(tensor.shape or ()) == 3 and tensor.shape[-1] != 4:
            role = Role.SEMANTIC  # after the post-processing that detectron2's script leaves in the graph
        if role is None:
            unknown.append((tensor, _another_form(tensor)))
        elif role in MAPS and detects and not pools:
            unknown.append((tensor, "is none that a detector without RoIAlign has"))
        elif role in known:
            plural = role.value if role.value.endswith("s") else f"{role.value} logits"
            first = known[role].name
            reason = f"looks like {plural}, which output {first!r} gives: an output of your own, or a second detector"
            unknown.append((tensor, reason))
        else:
            known[role] = tensor
    return known, unknown


def _another_form(tensor: gs.Tensor) -> str:
    """What an output without a role may be meant as, and what to give instead."""
    shape = list(tensor.shape) if tensor.shape is not None else []
    floating = tensor.dtype is not None and np.issubdtype(np.dtype(tensor.dtype), np.floating)
    own = "is none that a detectron2 detector has"
    if floating and len(shape) == 2 and shape[1] in (5, 6, 7):
        return f"{own}: it looks like boxes, scores and classes in one table; export them as outputs of their own"
    if len(shape) == 1 and floating:
        return f"{own}: it looks like classes as floating numbers; export them as integers"
    if len(shape) >= 2 and shape[0] == 1 and (shape[-1] == 4 or len(shape) == 2):
        return f"{own}: it looks like detections with a batch axis in front; export them without it, the build adds its own"
    if not floating and len(shape) == 2 and shape[1] == 4:
        return f"{own}: it looks like boxes rounded to integers; export them as floating numbers"
    if not floating and len(shape) in (3, 4):
        return f"{own}: it looks like masks after their threshold; export the probabilities [n, 1, M, M]"
    return own


def _was_integer(tensor: gs.Tensor) -> bool:
    node = producer(tensor)
    before = node.inputs[0].dtype if node is not None and node.op == "Cast" else None
    return before is not None and np.issubdtype(np.dtype(before), np.integer)


def _role(tensor: gs.Tensor) -> Role | None:
    if isinstance(tensor, gs.Constant) or tensor.shape == [2]:
        return Role.IMAGE_SIZE
    rank = len(tensor.shape) if tensor.shape is not None else None
    if tensor.dtype is None or not np.issubdtype(np.dtype(tensor.dtype), np.floating):
        return Role.CLASSES if rank == 1 else None
    columns = (tensor.shape or [4])[-1]
    if (rank == 1 and _was_integer(tensor)) or (rank == 2 and isinstance(columns, (int, np.integer)) and columns != 4):
        return None
    return _map_role(tensor) if rank == 4 else {1: Role.SCORES, 2: Role.BOXES}.get(rank or 0)


def _map_role(tensor: gs.Tensor) -> Role:
    """What a rank-4 output is, told by the nearest node above it that says so."""
    above = list(ancestors(tensor))
    if not any(node.op == "RoiAlign" for node in above):
        return Role.SEMANTIC
    for node in above:
        if node.op == "Sigmoid":
            return Role.MASKS
        if node.op in CONVOLUTIONS:
            break
    return Role.HEATMAPS
