"""Heads treat each box on its own: what a row gives may not depend on the rows beside it.

The compiled graph has rows that are not there (zeros, after the real ones) and all pictures of a batch in one tensor, so a
head that mixes rows answers otherwise there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis import probes
from onnxgraft.detector.spec import DetectorSpec, Outputs, PointHead, Pooler
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import Part, part_between
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors, descendants, node_inputs

_ROWS = 3
_CHANGED = 1  # the row that differs between two runs
_LIMIT = 1e-3  # of the largest magnitude: rows are summed in another order when others change


def hold_rows(graph: Graph, spec: DetectorSpec) -> dict[str, list[str]]:
    """Hold that the heads between pooled features and what is predicted from them treat each row on its own.

    Returns:
        names of the nodes of each head, by the head's name.

    Raises:
        Refusal: a node mixes rows.
    """
    return {head.name: _hold(graph, head) for head in _heads(graph, spec)}


@dataclass(frozen=True)
class _Head:
    """What is between tensors that have rows and what is predicted of each row.

    fed: the shape of each, its rows' number as -1. ends: whose first axis is the rows.
    """

    name: str
    fed: Mapping[str, tuple[int, ...]]
    ends: tuple[str, ...]


def _heads(graph: Graph, spec: DetectorSpec) -> list[_Head]:
    heads = [
        _pooled(f"box head of stage {number}", stage.pooler, stage.logits_tensor, stage.deltas_tensor)
        for number, stage in enumerate(spec.cascade, start=1)
    ]
    if spec.box_pooler is not None and spec.box_head is not None:
        heads.append(_pooled("box head", spec.box_pooler, spec.box_head.logits_tensor, spec.box_head.deltas_tensor))
    if spec.mask_pooler is not None and spec.mask_head is not None:
        heads.append(_pooled("mask head", spec.mask_pooler, spec.mask_head.logits_tensor))
    if spec.point_head is not None:
        heads += _of_points(graph, spec.point_head, spec.outputs)
    if spec.keypoint_pooler is not None and spec.keypoint_head is not None:
        heads.append(_pooled("keypoint head", spec.keypoint_pooler, spec.keypoint_head.logits_tensor))
    return heads


def _pooled(name: str, pooler: Pooler, *ends: str) -> _Head:
    return _Head(name, {pooler.pooled_tensor: (-1, pooler.channels, pooler.resolution, pooler.resolution)}, ends)


def _of_points(graph: Graph, head: PointHead, outputs: Outputs) -> list[_Head]:
    """The head of the coarse masks, and that of each round's points; of the boxes and the classes they read the number."""
    rows = {name: (-1, *(int(d) for d in graph.tensor(name).shape[1:]))
            for name in (outputs.boxes_tensor, outputs.classes_tensor) if name}  # fmt: skip

    def sampled(names: Sequence[str], points: int) -> dict[str, tuple[int, ...]]:
        return {name: (1, int(graph.tensor(name).shape[1]), -1, points) for name in names}

    found = [_Head("coarse mask head", rows | sampled(head.sampled_tensors, head.side**2), (head.coarse_tensor,))]
    for number, step in enumerate(head.steps, start=1):
        classes = int(graph.tensor(step.coarse_tensor).shape[1])
        fed = {**rows, **sampled(step.sampled_tensors, step.points), step.coarse_tensor: (-1, classes, step.points, 1)}
        found.append(_Head(f"point head of round {number}", fed, (step.logits_tensor,)))
    return found


def _hold(graph: Graph, head: _Head) -> list[str]:
    ends, starts = [graph.tensor(end) for end in head.ends], [graph.tensor(name) for name in head.fed]
    fixed = {t.shape[head.fed[t.name].index(-1)] for t in starts if t.shape}
    rows = next((n for n in fixed if isinstance(n, int) and n > 1), _ROWS)
    rng = probes.random(14)
    first: dict[str, np.ndarray] = {}
    second: dict[str, np.ndarray] = {}
    for name, shape in head.fed.items():
        axis = shape.index(-1)
        kind = np.dtype(graph.tensor(name).dtype or np.float32)
        first[name] = rng.normal(0, 1, [rows if d == -1 else d for d in shape]).astype(kind)
        second[name] = first[name].copy()
        own = (slice(None),) * axis + (_CHANGED,)
        second[name][own] = (3 * rng.normal(0, 1, first[name][own].shape).astype(np.float32) + 0.5).astype(kind)
    _refuse_other_inputs(ends, starts, head.name)
    nodes, _ = part_between(ends, first)
    before, after = _both(graph, ends, first, second)
    if not any(_mixed(a, b, rows) for a, b in zip(before, after, strict=True)):
        return [node.name for node in nodes]
    made = [t for node in nodes for t in node.outputs if t.name]
    before, after = _both(graph, made, first, second)
    culprit = next((t for t, a, b in zip(made, before, after, strict=True) if _mixed(a, b, rows)), ends[0])
    raise Refusal(
        f"the {head.name} mixes rows here: what one box gives depends on the boxes beside it, and a compiled graph has those "
        "of all pictures and rows without a box in one tensor", culprit.inputs[0].name if culprit.inputs else culprit.name,
    )  # fmt: skip


def _both(
    graph: Graph, tensors: Sequence[gs.Tensor], first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values of tensors with either arrays fed."""
    part = Part(graph, tensors, first, threads=None)
    before, after = part.run(first), part.run(second)
    return [before[t.name] for t in tensors], [after[t.name] for t in tensors]


def _refuse_other_inputs(ends: Sequence[gs.Tensor], starts: Sequence[gs.Tensor], name: str) -> None:
    """Hold that a head reads nothing else that is fed. Raises Refusal with the node that also reads something else."""
    behind = set().union(*(descendants(t) for t in starts))
    seen = {id(t) for t in starts}
    waiting = list(ends)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen or not tensor.inputs:
            continue
        seen.add(id(tensor))
        node = tensor.inputs[0]
        for read in node_inputs(node):
            if id(read) in behind:
                waiting.append(read)
            elif not isinstance(read, gs.Constant) and _depends_on_input(read):
                raise Refusal(f"the {name} reads more than its pooled features here: {read.name!r}", node.name)


def _depends_on_input(tensor: gs.Tensor) -> bool:
    """Whether something that is fed to the graph is above a tensor."""
    sources = [t for node in ancestors(tensor) for t in node.inputs] or [tensor]
    return any(isinstance(t, gs.Variable) and not t.inputs and t.name for t in sources)


def _mixed(before: np.ndarray, after: np.ndarray, rows: int) -> bool:
    """Whether two runs differ in other rows than the one that was changed, or in what has no rows."""
    if before.shape != after.shape:
        return True
    if before.dtype.kind != "f" or not before.size:
        return not np.array_equal(before, after)
    apart = np.abs(before - after)
    limit = _LIMIT * max(float(np.abs(before).max()), 1e-6)
    if before.ndim and before.shape[0] == rows:
        apart = np.delete(apart, _CHANGED, 0)
    elif before.ndim and before.shape[0] > rows and before.shape[0] % rows == 0:
        return False  # rows and something else along one axis: what follows tells
    elif before.ndim > 1 and before.shape[0] != 1:
        return False  # turned: what follows tells
    return bool(np.any(apart > limit)) or not bool(np.isfinite(before).all() == np.isfinite(after).all())
