"""Recognises detectron2's region proposal network, from its per-level convolutions to the proposals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.anchors import anchors_before, grid_strides
from onnxgraft.analysis.box_coder import measure_coder, verify_coder
from onnxgraft.analysis.joined_levels import joined_logits, joined_part, maps_of_rows, part_of_joined, proposal_filters
from onnxgraft.analysis.provenance import POSTPROCESSING, iou_threshold, kept_after, nms_of, refuse_change, scalars_near
from onnxgraft.detector.geometry import cell_anchors, grid_anchors
from onnxgraft.detector.spec import RPN, BoxCoder, RPNLevel
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate, repeated
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.traverse import (
    ancestors,
    ancestors_before,
    back_through,
    dims,
    producer,
    value,
)

_SAME = 1e-4  # pixels
_INDEXING = RESHAPING | {"Concat", "Expand", "Mul", "Add"}


def analyse_rpn(graph: Graph, proposals: gs.Tensor, image: tuple[int, int]) -> RPN:
    """The region proposal network that makes `proposals` [R, 4] out of an image of (height, width).

    Raises:
        Refusal: no per-level top-k, an unknown box coder, anchors that are no regular grid.
    """
    nms = nms_of(proposals)
    if nms is None:
        raise Refusal("no non-maximum suppression makes these proposals", proposals.name)
    topks = [node for node in ancestors(proposals) if node.op == "TopK"]
    if not topks:
        raise Refusal("no TopK selects proposals by their objectness", nms[0].name)
    found: list[tuple[RPNLevel, int]] = []
    coder: BoxCoder | None = None
    for node in sorted(topks, key=_locations):  # the coder is measured on the smallest level and verified on all
        level, coder = _level(graph, node, image, coder)
        found.append((level, part_of_joined(node.inputs[0])[1]))
    found.sort(key=lambda pair: (pair[0].stride, pair[1]))
    levels = [level for level, _ in found]
    selected = {level.selected_tensor for level in levels}
    joined = joined_logits(graph, topks, selected)
    least, probability = proposal_filters(nms[0])
    refuse_change(proposals, lambda t: t.name in selected, "proposals", POSTPROCESSING)
    assert coder is not None
    if len({level.stride for level in levels}) != len(levels) and joined is None:
        raise Refusal("two levels of the RPN have the same stride", topks[0].name)
    return RPN(
        levels=tuple(levels),
        coder=coder,
        pre_nms_topk=max(level.topk for level in levels),
        post_nms_topk=kept_after(nms[0]),
        nms_threshold=iou_threshold(nms[1]),
        min_box_size=least,
        proposals_tensor=proposals.name,
        probabilities=probability is not None,
        score_threshold=probability or 0.0,
        joined_logits_tensor=joined,
    )


def _locations(topk: gs.Node) -> int:
    shape = back_through(topk.inputs[0], RESHAPING).shape or []
    return int(np.prod([d for d in shape if isinstance(d, int)]))


def _level(graph: Graph, topk: gs.Node, image: tuple[int, int], known: BoxCoder | None) -> tuple[RPNLevel, BoxCoder]:
    logits, start = part_of_joined(topk.inputs[0])
    objectness = producer(logits)
    if objectness is None or objectness.op != "Conv":
        raise Refusal("the scores of this TopK do not come from an objectness convolution", topk.name)
    _, per_cell, height, width = dims(logits, 4, "the objectness logits")
    gather = _gathered_by(topk)
    decoded = gather.inputs[0]
    own = slice(start, start + height * width * per_cell)
    deltas, others = _deltas(graph, decoded, topk, (4 * per_cell, height, width), own)
    if (k := value(topk.inputs[1])) is None:
        raise Refusal("the number of boxes that this TopK keeps is not fixed", topk.name)

    decode = repeated(graph, [decoded], threads=None)

    def respond(offsets: np.ndarray) -> np.ndarray:
        planes = offsets.reshape(1, height, width, per_cell * 4).transpose(0, 3, 1, 2)
        return decode({**others, deltas.name: np.ascontiguousarray(planes)})[0].reshape(-1, 4)[own]

    generated, anchors = _generated(graph, decoded, deltas, others, own)
    reference = anchors if anchors is not None else respond(np.zeros((own.stop - start, 4), np.float32))
    if known is None:
        known = measure_coder(respond, reference, scalars_near(decoded, {"Conv"}), topk.name)
    else:
        verify_coder(respond, reference, known, topk.name)
    stride, stride_y = grid_strides(reference, height, width, image, topk.name)
    cells, offset = cell_anchors(reference[:per_cell], stride)
    size, ratio = _sizes_and_ratios(cells)
    if anchors is None:
        cells = _closed_form(cells, size, ratio)
    level = RPNLevel(
        stride=stride,
        stride_y=stride_y,
        height=height,
        width=width,
        anchor_sizes=size,
        aspect_ratios=ratio,
        cell_anchors=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in cells),
        anchor_offset=offset,
        topk=int(k.reshape(-1)[0]),
        feature_tensor=_feature(objectness).name,
        logits_tensor=logits.name,
        deltas_tensor=deltas.name,
        anchors_tensor=generated.name if generated is not None and generated.inputs else None,
        selected_tensor=gather.outputs[0].name,
        topk_node=topk.name,
    )
    if others and anchors is not None and np.abs(grid_anchors(level) - reference).max() > _SAME:
        raise Refusal("the anchors are no regular grid", topk.name)
    return level, known


def _gathered_by(topk: gs.Node) -> gs.Node:
    """The node that selects decoded boxes by the indices of a TopK, or by those of all levels' joined."""
    queue, seen = [topk.outputs[1]], set()
    while queue:
        tensor = queue.pop(0)
        for node in tensor.outputs:
            selects = node.op in ("Gather", "GatherND") and len(node.inputs) > 1 and node.inputs[1] is tensor
            if selects and (node.inputs[0].shape or [4])[-1] == 4:
                return node
            if not selects and node.op in _INDEXING and id(node) not in seen:
                seen.add(id(node))
                queue += node.outputs
    raise Refusal("the indices of this TopK select no boxes", topk.name)


def _deltas(
    graph: Graph, decoded: gs.Tensor, topk: gs.Node, wanted: tuple[int, int, int], rows: slice
) -> tuple[gs.Tensor, dict[str, np.ndarray]]:
    """The map [1, *wanted] of deltas that these rows of boxes are made of, and zeros for those of other levels decoded with
    it."""
    found = [n.outputs[0] for n in ancestors_before(decoded, {"Conv"}) if n.op == "Conv"]
    own = [t for t in found if tuple(dims(t, 4, "the anchor deltas")[1:]) == wanted]
    if len(found) == 1 and not own:
        raise Refusal(f"{wanted[0] // 4} anchors a location need {wanted[0]} deltas, found {found[0].shape}", topk.name)
    if len(own) > 1:
        own = maps_of_rows(graph, decoded, found, own, rows)
    if len(own) != 1:
        raise Refusal(
            f"the boxes behind this TopK depend on {len(found)} convolutions, not on one for deltas", topk.name
        )
    return own[0], {t.name: np.zeros([int(d) for d in t.shape], np.float32) for t in found if t is not own[0]}


def _generated(
    graph: Graph, decoded: gs.Tensor, deltas: gs.Tensor, others: Mapping[str, np.ndarray], own: slice
) -> tuple[gs.Tensor | None, np.ndarray | None]:
    """The tensor that a level's anchors are, and the anchors [rows of `own`, 4]; either None where the trace has none."""
    found = anchors_before(decoded, [deltas], own.stop - own.start)
    if found is not None or not others:
        return found, evaluate(graph, [found])[0].reshape(-1, 4) if found is not None else None
    total = own.stop - own.start + sum(zeros.size for zeros in others.values()) // 4
    every = anchors_before(decoded, [deltas], total)
    return joined_part(every, own), evaluate(graph, [every])[0].reshape(-1, 4)[own] if every is not None else None


def _sizes_and_ratios(cells: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    width, height = (cells[:, 2] - cells[:, 0]).astype(np.float64), (cells[:, 3] - cells[:, 1]).astype(np.float64)
    sizes = [_round(math.sqrt(w * h)) for w, h in zip(width, height, strict=True)]
    ratios = [_round(h / w) for w, h in zip(width, height, strict=True)]
    return tuple(dict.fromkeys(sizes)), tuple(dict.fromkeys(ratios))


def _round(number: float) -> float:
    return float(f"{number:.4g}")


def closed_form_cells(sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """DefaultAnchorGenerator.generate_cell_anchors (detectron2 anchor_generator.py): float32 [sizes * ratios, 4]."""
    cells = []
    for size in sizes:
        for ratio in ratios:
            w = math.sqrt(size**2.0 / ratio)
            h = ratio * w
            cells.append([-w / 2.0, -h / 2.0, w / 2.0, h / 2.0])
    return np.array(cells, np.float64).astype(np.float32)


def _closed_form(cells: np.ndarray, sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Cell anchors recovered from decoded boxes carry rounding; the generator's formula does not."""
    exact = closed_form_cells(sizes, ratios)
    return exact if exact.shape == cells.shape and np.abs(exact - cells).max() < 1e-2 else cells


def _feature(objectness: gs.Node) -> gs.Tensor:
    """The feature map under the RPN head: above its convolutions, which keep the map's size and which nothing else reads from.

    A backbone of nothing but convolutions and ReLUs looks like more of the head: it ends where a map is pooled from or read
    by another part, where it becomes smaller, and at the network's first convolution.
    """
    tensor = objectness.inputs[0]
    while (node := producer(tensor)) is not None and node.op == "Relu" and all(n.op == "Conv" for n in tensor.outputs):
        conv = producer(node.inputs[0])
        if conv is None or conv.op != "Conv" or (conv.inputs[0].shape or [])[2:] != (conv.outputs[0].shape or [])[2:]:
            break
        if not any(before.op == "Conv" for before in ancestors(conv.inputs[0])):
            break
        tensor = conv.inputs[0]
        if len(tensor.outputs) > 1:
            break
    return tensor
