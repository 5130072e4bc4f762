"""Reads levels whose rows are joined before their best are selected, as torchvision's region proposal network does it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.provenance import just_below
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING, SELECTING
from onnxgraft.ir.shape_inference import is_static
from onnxgraft.ir.traverse import ancestors_before, back_through, node_inputs, producer, scalar, value


def part_of_joined(tensor: gs.Tensor) -> tuple[gs.Tensor, int]:
    """The map whose rows a tensor only reshapes, and where they begin among those of all levels: 0, unless the levels' rows
    were joined, and these are cut out again as they went in."""
    tensor = back_through(tensor, RESHAPING)
    cut = producer(tensor)
    held = [value(t) for t in cut.inputs[1:3]] if cut is not None and cut.op == "Slice" else []
    if cut is None or len(held) != 2 or any(h is None or h.size != 1 for h in held):
        return tensor, 0
    first, last = (int(np.asarray(h).reshape(-1)[0]) for h in held)
    table = back_through(cut.inputs[0], RESHAPING)
    joined = producer(table)
    if joined is None or joined.op != "Concat":
        whole = is_static(table) and (first, last) == (0, int(np.prod(table.shape)))
        return (table if whole else tensor), 0
    start = 0
    for source in joined.inputs:
        end = start + _rows(source)
        if (start, end) == (first, last):
            return back_through(source, RESHAPING), start
        start = end
    return tensor, 0


def _rows(tensor: gs.Tensor) -> int:
    """The numbers, or the rows of four, that a tensor of fixed shape [..., 1] or [..., 4] holds."""
    return math.prod(int(d) for d in tensor.shape[:-1]) if tensor.shape and is_static(tensor) else 0


def joined_logits(graph: Graph, topks: list[gs.Node], selected: set[str]) -> str | None:
    """The logits that are selected by the same indices as the boxes of all levels, where those are selected together, or where
    the values of a TopK are not read; None where each level's are those of its TopK.

    Raises:
        Refusal: some levels' boxes are, and others' not.
    """
    if len(selected) == len(topks) and all(topk.outputs[0].outputs for topk in topks):
        return None
    gather = graph.tensor(next(iter(selected))).inputs[0]
    others = [n for n in gather.inputs[1].outputs if n is not gather and n.op == gather.op and n.inputs[1] is gather.inputs[1]]
    for node in others:
        table = back_through(node.inputs[0], RESHAPING)
        if any(topk in _behind(table) for topk in topks):
            return str(node.outputs[0].name)
    raise Refusal("the boxes of several levels are selected together here, and their logits are not", gather.name)


def _behind(tensor: gs.Tensor) -> list[gs.Node]:
    """The nodes that read a tensor through reshapes and slices."""
    found: list[gs.Node] = []
    waiting = [tensor]
    while waiting:
        for node in waiting.pop().outputs:
            found.append(node)
            waiting += node.outputs if node.op in RESHAPING | {"Slice"} else []
    return found


def joined_part(joined: gs.Tensor | None, own: slice) -> gs.Tensor | None:
    """What a Concat of the levels' anchors has in these rows."""
    node = producer(joined) if joined is not None else None
    start = 0
    for source in node.inputs if node is not None and node.op == "Concat" else ():
        end = start + _rows(source)
        if (start, end) == (own.start, own.stop):
            return source
        start = end
    return None


def maps_of_rows(
    graph: Graph, decoded: gs.Tensor, every: Sequence[gs.Tensor], own: Sequence[gs.Tensor], rows: slice
) -> list[gs.Tensor]:
    """Those of the maps `own` that change these rows of `decoded` [..., rows, 4], which is made of `every` map."""
    zeros = {t.name: np.zeros([int(d) for d in t.shape], np.float32) for t in every}
    still = evaluate(graph, [decoded], zeros)[0].reshape(-1, 4)[rows]
    moved = {t.name: evaluate(graph, [decoded], {**zeros, t.name: zeros[t.name] + 0.5})[0].reshape(-1, 4)[rows] for t in own}
    return [t for t in own if not np.array_equal(moved[t.name], still)]


def proposal_filters(nms: gs.Node) -> tuple[float, float | None]:
    """What decides over proposals between top-k and suppression.

    Returns:
        the side that both of a box exceed (Boxes.nonempty; torchvision's remove_small_boxes, which keeps what is as long), and
        the probability that they have at least, None where the suppression ranks by logits.

    Raises:
        Refusal: boxes are not filtered by their size, or width and height are not alike.
    """
    sides: list[float] = []
    ranked, least = False, 0.0
    near = {id(n): n for start in node_inputs(nms) for n in ancestors_before(start, {"TopK", "Conv"})}
    for node in near.values():
        ranked |= node.op == "Sigmoid"
        if node.op not in ("Greater", "GreaterOrEqual") or (number := scalar(node.inputs[1])) is None:
            continue
        source = producer(back_through(node.inputs[0], RESHAPING | SELECTING))
        if source is None or source.op != "Sigmoid":
            sides.append(number if node.op == "Greater" else just_below(number))
        elif node.op == "Greater":
            raise Refusal("proposals that meet their threshold are dropped here; torchvision keeps them", node.name)
        else:
            least = max(least, number)
    if not sides:
        raise Refusal("proposals are not filtered for empty boxes before suppression", nms.name)
    if ranked and len(set(sides)) > 1:
        raise Refusal(f"widths and heights of proposals are compared with {sorted(set(sides))}, not with one number", nms.name)
    return sides[0], least if ranked else None
