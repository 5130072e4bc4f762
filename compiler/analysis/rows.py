"""Heads treat each box on its own: what a row gives may not depend on the rows beside it.

The compiled graph has rows that are not there (zeros, after the real ones) and all pictures of a batch in one tensor, so a
head that mixes rows answers otherwise there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis import probes
from onnxgraft.detector.spec import DetectorSpec, Pooler
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
    found: dict[str, list[str]] = {}
    for name, pooler, ends in _heads(spec):
        found[name] = _hold(graph, pooler, [graph.tensor(end) for end in ends], name)
    return found


def _heads(spec: DetectorSpec) -> list[tuple[str, Pooler, list[str]]]:
    heads: list[tuple[str, Pooler, list[str]]] = [
        (f"box head of stage {number}", stage.pooler, [stage.logits_tensor, stage.deltas_tensor])
        for number, stage in enumerate(spec.cascade, start=1)
    ]
    if spec.box_pooler is not None and spec.box_head is not None:
        heads.append(("box head", spec.box_pooler, [spec.box_head.logits_tensor, spec.box_head.deltas_tensor]))
    if spec.mask_pooler is not None and spec.mask_head is not None:
        heads.append(("mask head", spec.mask_pooler, [spec.mask_head.logits_tensor]))
    if spec.keypoint_pooler is not None and spec.keypoint_head is not None:
        heads.append(("keypoint head", spec.keypoint_pooler, [spec.keypoint_head.logits_tensor]))
    return heads


def _hold(graph: Graph, pooler: Pooler, ends: Sequence[gs.Tensor], name: str) -> list[str]:
    pooled = graph.tensor(pooler.pooled_tensor)
    fixed = pooled.shape[0] if pooled.shape else None
    rows = fixed if isinstance(fixed, int) and fixed > 1 else _ROWS
    rng = probes.random(14)
    first = rng.normal(0, 1, (rows, pooler.channels, pooler.resolution, pooler.resolution)).astype(np.float32)
    second = first.copy()
    second[_CHANGED] = 3 * rng.normal(0, 1, first.shape[1:]).astype(np.float32) + 0.5
    _refuse_other_inputs(ends, pooled, name)
    nodes, _ = part_between(ends, {pooled.name: first})
    before, after = _both(graph, ends, pooled.name, first, second)
    if not any(_mixed(a, b, rows) for a, b in zip(before, after, strict=True)):
        return [node.name for node in nodes]
    made = [t for node in nodes for t in node.outputs if t.name]
    before, after = _both(graph, made, pooled.name, first, second)
    culprit = next((t for t, a, b in zip(made, before, after, strict=True) if _mixed(a, b, rows)), ends[0])
    raise Refusal(
        f"the {name} mixes rows here: what one box gives depends on the boxes beside it, and a compiled graph has those of "
        "all pictures and rows without a box in one tensor", culprit.inputs[0].name if culprit.inputs else culprit.name,
    )  # fmt: skip


def _both(
    graph: Graph, tensors: Sequence[gs.Tensor], fed: str, first: np.ndarray, second: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values of tensors with either array fed."""
    part = Part(graph, tensors, {fed: first}, threads=None)
    before, after = part.run({fed: first}), part.run({fed: second})
    return [before[t.name] for t in tensors], [after[t.name] for t in tensors]


def _refuse_other_inputs(ends: Sequence[gs.Tensor], pooled: gs.Tensor, name: str) -> None:
    """Hold that a head reads its pooled features alone. Raises Refusal with the node that also reads something else."""
    behind = descendants(pooled)
    seen: set[int] = set()
    waiting = list(ends)
    while waiting:
        tensor = waiting.pop()
        if tensor is pooled or id(tensor) in seen or not tensor.inputs:
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
