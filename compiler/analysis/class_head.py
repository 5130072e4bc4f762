"""Recognises SSD's head: a softmax over the classes of every anchor, of which each class ranks its own over all levels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.anchors import anchors_before, read_grid
from onnxgraft.analysis.box_coder import Decode, measure_coder
from onnxgraft.analysis.class_selection import ClassSelection, classes_of
from onnxgraft.analysis.dense_levels import shared_feature, strides_apart
from onnxgraft.analysis.dense_selection import parts_of
from onnxgraft.analysis.provenance import iou_threshold, kept_after, scalars_near
from onnxgraft.detector.geometry import grid_anchors
from onnxgraft.detector.reference import by_location, clip, softmax
from onnxgraft.detector.spec import DenseHead, DenseLevel
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate, repeated
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors_before, dims

_TOLERANCE = 1e-5  # of scores, which are probabilities
_SAME = 1e-3  # pixels
_BEYOND = 40.0  # deltas that send boxes over every side of the image


def analyse_class_head(
    graph: Graph, joined: Sequence[gs.Tensor], nms: tuple[gs.Node, gs.Node], image: tuple[int, int]
) -> DenseHead:
    """The head whose candidates, class by class, are suppressed.

    Args:
        joined: boxes [n, 4], scores [n] and labels [n] that the suppression gets of all classes.
        nms: the node that suppresses, and the NonMaxSuppression in it.
        image: height and width.

    Raises:
        Refusal: names the node and the reason.
    """
    found = classes_of(graph, *(parts_of(tensor) for tensor in joined))
    node = found.topk.name
    logits, deltas = _maps(found.scores, node), _maps(found.decoded, node)
    counts = [_rows_of(*maps, found) for maps in zip(logits, deltas, strict=False)]
    if len(logits) != len(deltas) or sum(counts) != found.anchors:
        raise Refusal(f"{len(logits)} maps of class logits and {len(deltas)} of deltas make not {found.anchors} anchors", node)
    _hold_scores(graph, found, logits)
    if found.decoded is found.boxes:
        _refuse_clip(found)
    anchors = anchors_before(found.decoded, deltas, found.anchors)
    decode = _decoder(graph, found, deltas)
    generated = evaluate(graph, [anchors])[0].reshape(-1, 4) if anchors is not None else decode(_still(found))
    coder = measure_coder(decode, generated, scalars_near(found.decoded, {"Conv"}), node)
    _hold_clip(graph, found, deltas, image)
    levels = []
    each = np.split(generated, np.cumsum(counts)[:-1])
    for of_scores, of_boxes, own in zip(logits, deltas, each, strict=True):
        height, width = dims(of_scores, 4, "the class logits")[2:]
        levels.append(DenseLevel(
            height=height, width=width, topk=found.limit, feature_tensor=shared_feature(of_scores, of_boxes).name,
            logits_tensor=of_scores.name, deltas_tensor=of_boxes.name, centerness_tensor=None,
            anchors_tensor=anchors.name if anchors is not None else None,
            boxes_tensor=joined[0].name, scores_tensor=joined[1].name, classes_tensor=joined[2].name,
            **vars(read_grid(own, height, width, image, node)),
        ))  # fmt: skip
    return DenseHead(
        levels=_held(levels, generated, node),
        num_classes=found.columns - 1,
        coder=coder,
        score_threshold=found.threshold,
        nms_threshold=iou_threshold(nms[1]),
        detections_per_image=kept_after(nms[0]),
        clipped_first=True,
        activation="softmax",
        class_topk=found.limit,
    )


def _held(levels: Sequence[DenseLevel], anchors: np.ndarray, node: str) -> tuple[DenseLevel, ...]:
    """The levels, of distinct strides, whose grids are these anchors [A, 4] of all of them.

    Raises:
        Refusal: they are joined in another order than the finest first, or their anchors are no regular grid.
    """
    apart = strides_apart(levels)
    if any(fine.stride >= coarse.stride for fine, coarse in itertools.pairwise(apart)):
        raise Refusal(f"the levels are joined in the order of strides {[v.stride for v in levels]}, not the finest first", node)
    error = float(np.abs(np.concatenate([grid_anchors(level) for level in apart]) - anchors).max())
    if not error < _SAME:
        raise Refusal(f"the anchors are no regular grid: they are {error:.3g} pixels off one", node)
    return tuple(apart)


def _maps(table: gs.Tensor, node: str) -> list[gs.Tensor]:
    """The maps of all levels of which a table is made, in the order in which they are joined."""
    nodes = list(ancestors_before(table, {"Conv"}))
    maps = [n.outputs[0] for n in nodes if n.op == "Conv"]
    if len(maps) == 1:
        return maps
    for join in (n for n in nodes if n.op == "Concat" and len(n.inputs) == len(maps)):
        behind = [[n.outputs[0] for n in ancestors_before(t, {"Conv"}) if n.op == "Conv"] for t in join.inputs]
        if all(len(convs) == 1 for convs in behind) and len({id(convs[0]) for convs in behind}) == len(maps):
            return [convs[0] for convs in behind]
    raise Refusal(f"no Concat joins the {len(maps)} convolutions of all levels", node)


def _rows_of(logits: gs.Tensor, deltas: gs.Tensor, found: ClassSelection) -> int:
    """Anchors of a level, by its maps [1, A * (C + 1), H, W] and [1, 4 * A, H, W]."""
    _, channels, height, width = dims(logits, 4, "the class logits")
    per_cell = channels // found.columns
    if channels % found.columns or dims(deltas, 4, "the anchor deltas")[1:] != [4 * per_cell, height, width]:
        raise Refusal(f"class logits {logits.shape} of {found.columns} columns and deltas {deltas.shape} do not fit together",
                      found.topk.name)  # fmt: skip
    return height * width * per_cell


def _hold_scores(graph: Graph, found: ClassSelection, logits: Sequence[gs.Tensor]) -> None:
    """Hold that scores are the softmax of an anchor's logits, anchors by level, row, column and cell. Raises Refusal."""
    random = np.random.Generator(np.random.Philox(15))
    values = [random.uniform(-6, 6, dims(t, 4, "the class logits")).astype(np.float32) for t in logits]
    given = evaluate(graph, [found.scores], {t.name: v for t, v in zip(logits, values, strict=True)})[0]
    expected = softmax(np.concatenate([by_location(v, found.columns) for v in values]))
    error = float(np.abs(given - expected).max())
    if not error < _TOLERANCE:
        raise Refusal(f"scores differ by {error:.3g} from the softmax over classes and background of each anchor, as in SSD",
                      found.topk.name)  # fmt: skip


def _feeds(deltas: Sequence[gs.Tensor], offsets: np.ndarray) -> dict[str, np.ndarray]:
    """The maps of all levels, by name, of deltas [anchors, 4]."""
    feeds, start = {}, 0
    for tensor in deltas:
        _, channels, height, width = dims(tensor, 4, "the anchor deltas")
        own = offsets[start : start + channels // 4 * height * width]
        start += len(own)
        feeds[tensor.name] = np.ascontiguousarray(own.reshape(1, height, width, channels).transpose(0, 3, 1, 2))
    return feeds


def _decoder(graph: Graph, found: ClassSelection, deltas: Sequence[gs.Tensor]) -> Decode:
    decode = repeated(graph, [found.decoded], threads=None)
    return lambda offsets: decode(_feeds(deltas, offsets))[0].reshape(-1, 4)


def _still(found: ClassSelection) -> np.ndarray:
    """Deltas of nothing, which give the anchors themselves: a small graph has been folded so far that it holds none."""
    return np.zeros((found.anchors, 4), np.float32)


def _hold_clip(graph: Graph, found: ClassSelection, deltas: Sequence[gs.Tensor], image: tuple[int, int]) -> None:
    """Hold that boxes are clipped to the image before they are suppressed, and nothing else. Raises Refusal."""
    offsets = np.random.Generator(np.random.Philox(16)).uniform(-_BEYOND, _BEYOND, (found.anchors, 4)).astype(np.float32)
    before, after = evaluate(graph, [found.decoded, found.boxes], _feeds(deltas, offsets))
    if not np.array_equal(after.reshape(-1, 4), clip(before.reshape(-1, 4), image).astype(np.float32)):
        _refuse_clip(found)


def _refuse_clip(found: ClassSelection) -> NoReturn:
    raise Refusal("the boxes of all anchors are not clipped to the image before each class takes its own, as SSD's are",
                  found.topk.name)  # fmt: skip
