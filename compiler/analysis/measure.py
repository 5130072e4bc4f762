"""Holds a recognised part of a graph against the formula that it was taken for, on inputs made for its corners.

Reading a graph finds what it looks for. What it did not look for (a filter, another order, a bound of another value)
changes answers, so each part is run between the tensors that the spec names and compared with NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.evidence import Evidence
from onnxgraft.detector.reference import Found
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import Part, evaluate, part_between
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import contains_op, node_inputs

PIXELS, SCORE = 2e-2, 2e-5
"""Differences that float32 makes of float64: coordinates carry the offsets that keep classes apart in a suppression."""
_DECIDING = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "TopK", "Where"})
_TRIED = 48  # nodes that are tried as the reason of a difference, nearest to the outputs first

Compare = Callable[[Sequence[np.ndarray]], str | None]
"""Takes one array for each output of a part, of that tensor's shape; says how they differ from what is expected, or None."""

Probe = tuple[dict[str, np.ndarray], Compare]
"""Arrays of the shapes and dtypes of a graph's tensors, by name (a float32 map [1, C, H, W] for a map), and their answer."""


def hold(
    graph: Graph, outputs: Sequence[gs.Tensor], probes: Iterable[Probe], what: str, evidence: Evidence | None = None
) -> None:
    """Run the part of the graph between what probes feed and `outputs`; the probe says how the results differ.

    Args:
        probes: all of them feed the same tensors.
        evidence: learns what the part's nodes did.

    Raises:
        Refusal: they differ. It names the node without which they would not, or the last one of the part.
    """
    part: Part | None = None
    watched: list[gs.Tensor] = []
    for feeds, compare in probes:
        if part is None:
            nodes = _part(outputs, feeds)
            watched = evidence.watch(nodes) if evidence is not None else []
            _refuse_other_inputs(outputs, feeds, what)
            wanted = {t.name: t for t in (*outputs, *watched) if t.name not in feeds}
            part = Part(graph, list(wanted.values()), feeds, threads=None)  # maps of the whole canvas
        elif evidence is not None:
            watched = evidence.wanted()
        asked = list(dict.fromkeys(t.name for t in (*outputs, *watched) if t.name not in feeds))
        values = {**feeds, **part.run(feeds, asked)}
        difference = compare([values[t.name] for t in outputs])
        if difference is not None:
            _refuse(graph, outputs, feeds, compare, f"{what} differ from detectron2's", difference)
        if evidence is not None:
            evidence.saw(values)
        del feeds, values  # maps are large, and the next probe makes its own


def _refuse(
    graph: Graph, outputs: Sequence[gs.Tensor], feeds: dict[str, np.ndarray], compare: Compare, what: str, difference: str
) -> NoReturn:  # fmt: skip
    culprit = _culprit(graph, outputs, feeds, compare)
    if culprit is not None:
        raise Refusal(f"{what} by what a {culprit.op} does here: {difference}", culprit.name)
    last = _decider(graph, outputs, feeds) or next((t.inputs[0].name for t in outputs if t.inputs), outputs[0].name)
    raise Refusal(f"{what}: {difference}", last)


def _refuse_other_inputs(outputs: Sequence[gs.Tensor], feeds: Mapping[str, np.ndarray], what: str) -> None:
    """Hold that a part reads nothing besides what it is fed. Raises Refusal with the node that does, nearest to the outputs."""
    def depends(tensor: gs.Tensor) -> bool:
        return any(not t.inputs and isinstance(t, gs.Variable) and t.name and t.name not in feeds
                   for node in _part([tensor], feeds) for t in node_inputs(node))  # fmt: skip

    if not any(depends(t) for t in outputs):
        return
    for node in _part(outputs, feeds):
        reads = [t for t in node_inputs(node) if not isinstance(t, gs.Constant) and t.name]
        other = [t for t in reads if t.name not in feeds and (depends(t) or not t.inputs)]
        if other and len(other) < len(reads):
            raise Refusal(f"{what} also depend on {other[0].name!r} here, which is none of their part's inputs", node.name)


def _decider(graph: Graph, outputs: Sequence[gs.Tensor], feeds: dict[str, np.ndarray]) -> str | None:
    """The first node behind a suppression that decides over its results: a comparison, another suppression, a TopK."""
    part = {id(node) for node in _part(outputs, feeds)}
    behind: set[int] = set()
    deciders: list[gs.Node] = []
    for node in (n for n in graph.nodes if id(n) in part):
        suppresses = node.op == "NonMaxSuppression" or contains_op(node, "NonMaxSuppression") is not None
        later = any(id(t) in behind for t in node_inputs(node))
        if later and (suppresses or node.op in _DECIDING):
            deciders.append(node)
        if suppresses or later:
            behind.update(id(t) for t in node.outputs)
    return deciders[0].name if deciders else None


def _culprit(
    graph: Graph, outputs: Sequence[gs.Tensor], feeds: dict[str, np.ndarray], compare: Compare
) -> gs.Node | None:
    """The node nearest to the outputs without which the part agrees, found by taking nodes out one at a time.

    The part runs once; without a node, only what stands behind it is run again.
    """
    order, tried = part_between(outputs, feeds)[0], set[int]()
    within = {id(node) for node in order}
    without: list[tuple[gs.Node, list[tuple[gs.Tensor, gs.Tensor]], list[gs.Tensor]]] = []
    for node in _part(outputs, feeds)[:_TRIED]:
        if id(node) in tried or len(node.outputs) != 1 or not node.inputs:
            continue
        together = [n for n in _same_selection(node) if id(n) in within]
        tried.update(id(n) for n in together)
        beside = _beside({n.outputs[0].name for n in together}, order, outputs)
        for position in range(len(node.inputs) if len(together) == 1 else 1):
            handed = [(n.outputs[0], n.inputs[position]) for n in together]
            if not any(isinstance(taken, gs.Constant) or not taken.name for _, taken in handed):
                without.append((node, handed, beside))
    read = {t.name: t for _, handed, beside in without for t in (*(taken for _, taken in handed), *beside)}
    asked = [t for name, t in read.items() if name not in feeds]
    try:
        known = {**feeds, **{t.name: held for t, held in zip(asked, evaluate(graph, asked, feeds), strict=True)}}
    except Refusal:  # it is the difference that is told, whatever keeps its reason from being found
        return None
    for node, handed, beside in without:
        fed = {**{t.name: known[t.name] for t in beside}, **{made.name: known[taken.name] for made, taken in handed}}
        if _agrees(graph, outputs, fed, compare):
            return node
    return None


def _agrees(graph: Graph, outputs: Sequence[gs.Tensor], feeds: dict[str, np.ndarray], compare: Compare) -> bool:
    """Whether the part agrees when these of its tensors have these values."""
    try:
        asked = [t for t in outputs if t.name not in feeds]
        values = iter(evaluate(graph, asked, feeds)) if asked else iter(())
        return compare([feeds[t.name] if t.name in feeds else next(values) for t in outputs]) is None
    except (Refusal, ValueError, IndexError):
        return False


def _beside(changed: set[str], order: Sequence[gs.Node], outputs: Sequence[gs.Tensor]) -> list[gs.Tensor]:
    """What the nodes behind the changed tensors read besides, and the outputs that are not behind them.

    order: the nodes of the part, each behind those that it reads.
    """
    behind, found = set(changed), dict[str, gs.Tensor]()
    for node in order:
        read = [t for t in node_inputs(node) if t.name and not isinstance(t, gs.Constant)]
        if any(t.name in behind for t in read) and not changed & {t.name for t in node.outputs}:
            behind.update(t.name for t in node.outputs)
            found |= {t.name: t for t in read}
    found |= {t.name: t for t in outputs if not isinstance(t, gs.Constant)}
    return [t for name, t in found.items() if name not in behind]


def _part(outputs: Sequence[gs.Tensor], feeds: Mapping[str, np.ndarray]) -> list[gs.Node]:
    """The nodes between feeds and outputs, nearest to the outputs first."""
    found: dict[int, gs.Node] = {}
    queue = list(outputs)
    while queue:
        tensor = queue.pop(0)
        if tensor.name in feeds or not tensor.inputs or id(tensor.inputs[0]) in found:
            continue
        found[id(tensor.inputs[0])] = tensor.inputs[0]
        queue += node_inputs(tensor.inputs[0])
    return list(found.values())


def _same_selection(node: gs.Node) -> list[gs.Node]:
    """The nodes that select by the same indices: a filter of boxes, scores and classes is one."""
    if node.op not in ("Gather", "GatherND", "GatherElements") or isinstance(node.inputs[1], gs.Constant):
        return [node]
    return [n for n in node.inputs[1].outputs if n.op == node.op and n.inputs[1] is node.inputs[1]]


def compare_found(expected: Found, boxes: np.ndarray, scores: np.ndarray | None, classes: np.ndarray | None) -> str | None:
    """How results differ from the expected ones, or None: the number of rows, then the first row without a partner.

    Args:
        boxes: [n, 4], in the order given out.
        scores: [n], or None where the part gives out none; boxes then stand by order.
        classes: [n], or None where the part gives out none.
    """
    if boxes.ndim != 2 or boxes.shape[-1] != 4 or len(boxes) != len(expected):
        return f"{len(boxes)} rows where {len(expected)} are expected"
    if scores is not None and (scores.shape != expected.scores.shape or np.any(np.diff(scores) > SCORE)):
        return "the rows are not the surest first"
    if classes is not None and classes.shape != expected.classes.shape:
        return f"classes of shape {classes.shape}"

    def near(rows: slice | int) -> np.ndarray:
        """Which of the results agree with an expected row, or each with the one in its place."""
        alike = np.abs(expected.boxes[rows] - boxes).max(1, initial=0.0) < PIXELS
        if scores is not None:
            alike &= np.abs(expected.scores[rows] - scores) < SCORE
        return alike if classes is None else alike & (classes == expected.classes[rows])

    for row in np.nonzero(~near(slice(None)))[0]:
        if scores is None or not near(int(row)).any():  # of proposals their order is the only sign of their scores
            label = "" if classes is None else f" of class {expected.classes[row]}"
            corners = np.round(expected.boxes[row], 1).tolist()
            return f"the box {corners}{label} with score {expected.scores[row]:.4g} is not among them"
    return None
