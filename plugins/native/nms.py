"""Non-maximum suppression in ops that TensorRT for RTX builds: no NMS, NonZero or plugin.

Greedy suppression over candidates sorted by score is the fixed point of

    keep = entering & not(any earlier kept candidate of the class overlaps)

Each iteration is one product of the suppression matrix with `keep`; the first i candidates are
right after i iterations, so K iterations are enough for any input, and a few are in practice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxgraft.errors import PluginError
from onnxgraft.ir.value import Value, concat, where
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.topk import TOP_K_LIMIT, top_k

_NEVER = float(np.float32(-3.0e38))  # sorts after every score, finite so that it survives products
_PRESENT = float(np.float32(-1.0e38))


@dataclass(frozen=True)
class NmsProblem:
    """Everything static about one suppression; see EfficientNMS for the meaning."""

    boxes: tuple[int, ...]
    scores: tuple[int, ...]
    limit: float
    below: float
    iou_threshold: float
    rows: int
    background: int
    sigmoid: bool
    agnostic: bool
    centre_size: bool
    candidates: int
    by_class: bool
    one_class: bool
    matmul: int

    @staticmethod
    def of(
        attrs: Mapping[str, Any], options: Mapping[str, Any], shapes: Sequence[Sequence[int]], limit: float, tail: float | None
    ) -> NmsProblem:
        """From complete attributes and options, the shapes of boxes and scores, the threshold in the space of the scores,
        and the score of what fails it where such elements come out at the tail (None where they never enter)."""
        return NmsProblem(
            boxes=tuple(shapes[0]),
            scores=tuple(shapes[1]),
            limit=limit,
            below=_NEVER if tail is None else tail,
            iou_threshold=attrs["iou_threshold"],
            rows=attrs["max_output_boxes"],
            background=attrs["background_class"],
            sigmoid=bool(attrs["score_activation"]),
            agnostic=bool(attrs["class_agnostic"]),
            centre_size=bool(attrs["box_coding"]),
            candidates=options["max_candidates"],
            by_class=options["grouping"] == "class",
            one_class=options["grouping"] == "box",
            matmul=TensorProto.FLOAT16 if options["matmul"] == "float16" else TensorProto.FLOAT,
        )

    @property
    def box_rows(self) -> int:
        """Boxes per image in the table: N shared, N*C per class."""
        return int(np.prod(self.boxes[1:-1]))

    @property
    def groups(self) -> int:
        """Independent suppressions, G: one per image, or per image and class."""
        return self.scores[0] * (self.scores[2] if self.by_class else 1)

    @property
    def taken(self) -> int:
        """Candidates per group, K."""
        _, count, classes = self.scores
        if self.by_class:
            return min(self.candidates or TOP_K_LIMIT, count)
        if self.one_class:
            return min(self.candidates or count, count)
        return min(self.candidates or TOP_K_LIMIT, count * classes)


def lower_nms(p: NmsProblem, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.GraphProto:
    """The graph of one problem: inputs boxes, scores; outputs as EfficientNMS gives them."""
    if p.by_class and p.agnostic:
        raise PluginError("lowering of EfficientNMS_TRT: grouping=class needs class_agnostic=0")
    b = Builder()
    boxes, scores = b.input(inputs[0]), b.input(inputs[1])
    batch, count, classes = p.scores
    keyed = _threshold(b, p, scores)
    k = p.taken
    if p.by_class:
        keyed = keyed.transpose(0, 2, 1).reshape(batch * classes, count)
        values, index = top_k(keyed, batch * classes, k)
        group = np.tile(np.arange(classes, dtype=np.int32), batch)[:, None]
        element = index * np.int32(classes) + group
    elif p.one_class and classes > 1:
        best, label = _best_class(keyed)
        values, row = top_k(best, batch, k)
        element = row * np.int32(classes) + label.take_along(row, axis=1)
    else:
        values, element = top_k(keyed.reshape(batch, count * classes), batch, k)
    anchor = element / np.int32(classes)
    class_of = element - anchor * np.int32(classes)
    shared = p.box_rows == count
    corners = _corners(b, p, boxes, anchor if shared else element)
    same_class = None if p.by_class or p.agnostic or classes == 1 else class_of
    keep = suppress(b, corners, values > _PRESENT, same_class, _places(b, element, k), p)
    _emit(b, p, keep, values, corners, class_of, k * (classes if p.by_class else 1), outputs)
    return b.graph(
        "efficient_nms",
        [tensor_info(inputs[0], p.boxes), tensor_info(inputs[1], p.scores)],
        [
            tensor_info(outputs[0], (batch, 1), TensorProto.INT32),
            tensor_info(outputs[1], (batch, p.rows, 4)),
            tensor_info(outputs[2], (batch, p.rows)),
            tensor_info(outputs[3], (batch, p.rows), TensorProto.INT32),
        ],
    )


def _best_class(keyed: Value) -> tuple[Value, Value]:
    """Of scores [N,R,C], each box's best score [N,R] and its class, int32."""
    best, label = keyed.topk([1], axis=-1)
    return best.squeeze(2), label.squeeze(2).cast(TensorProto.INT32)


def suppress(
    b: Builder, corners: Value, entering: Value, class_of: Value | None, place: Value, p: NmsProblem
) -> Value:
    """keep bool [G,K] of candidates [G,K,4] sorted by score, best first; place [G,K] counts them."""
    low, high = corners.take([0, 1], axis=2), corners.take([2, 3], axis=2)
    low, high = low.min(high), low.max(high)
    side = high - low
    area = side.take(0, axis=2) * side.take(1, axis=2)
    sides = [_overlap_1d(low.take(i, axis=2), high.take(i, axis=2)) for i in (0, 1)]
    inter = sides[0] * sides[1]
    union = area.unsqueeze(2) + area.unsqueeze(1) - inter
    clash = (inter > 0.0) & (inter / union >= np.float32(p.iou_threshold))
    clash = clash & (place.unsqueeze(1) < place.unsqueeze(2))
    if class_of is not None:
        clash = clash & class_of.unsqueeze(2).equal(class_of.unsqueeze(1))
    matrix = clash.cast(p.matmul)
    start = entering.cast(p.matmul).unsqueeze(2)
    return _fixed_point(b, matrix, start, p) > _of(p.matmul, 0.5)


def _places(b: Builder, element: Value, k: int) -> Value:
    """0..K-1 in each row of int32 [G,K], tied to run-time data (elements are never negative): a
    builder that folded the K x K comparison of constants would store it in the engine."""
    return b.op("Max", np.arange(k, dtype=np.int32)[None, :], np.int32(-1) - element)


def _fixed_point(b: Builder, matrix: Value, start: Value, p: NmsProblem) -> Value:
    groups, k = p.groups, p.taken
    body = b.body()
    keep = body.input("keep_in")
    hits = body.op("MatMul", matrix, keep)
    free = (hits < _of(p.matmul, 0.5)).cast(p.matmul) * body.here(start)
    moved = (free - keep).abs().cast(TensorProto.FLOAT)
    moved = moved.reshape(1, groups * k).amax(0, 1)
    again = moved > 0.5
    body.output(again, "again_out")
    body.output(free, "keep_out")
    shape = (groups, k, 1)
    graph = body.graph(
        "suppress",
        [tensor_info("trip", (), TensorProto.INT64), tensor_info("again_in", (), TensorProto.BOOL),
         tensor_info("keep_in", shape, p.matmul)],
        [tensor_info("again_out", (), TensorProto.BOOL), tensor_info("keep_out", shape, p.matmul)],
    )
    kept = b.op("Loop", np.array(k, np.int64), np.array(True), start, body=graph)
    return kept.squeeze(2)


def _threshold(b: Builder, p: NmsProblem, scores: Value) -> Value:
    """Scores [B,N,C] with everything that does not enter put where TopK finds it last."""
    passes = scores >= np.float32(p.limit)
    classes = p.scores[2]
    if 0 <= p.background < classes:
        foreground = np.arange(classes) != p.background
        passes = passes & b.constant(foreground.reshape(1, 1, classes))
    return where(passes, scores, p.below)


def _corners(b: Builder, p: NmsProblem, boxes: Value, row: Value) -> Value:
    """[G,K,4] corners; `row` [G,K] indexes an image's own boxes."""
    batch = p.boxes[0]
    if batch > 1:
        each = p.groups // batch
        first = np.repeat(np.arange(batch, dtype=np.int32) * np.int32(p.box_rows), each)
        row = row + first[:, None]
    box = boxes.reshape(batch * p.box_rows, 4).take(row)
    if not p.centre_size:
        return box
    centre, half = box.take([0, 1], axis=2), box.take([2, 3], axis=2) * 0.5
    return concat(centre - half, centre + half, axis=2)


def _overlap_1d(low: Value, high: Value) -> Value:
    start = low.unsqueeze(2).max(low.unsqueeze(1))
    stop = high.unsqueeze(2).min(high.unsqueeze(1))
    return (stop - start).max(0.0)


def _emit(
    b: Builder, p: NmsProblem, keep: Value, values: Value, corners: Value, class_of: Value, pool: int, outputs: Sequence[str]
) -> None:
    """The best `rows` survivors out of a pool per image, zero-padded."""
    batch, taken = p.scores[0], min(p.rows, pool)
    ranked = where(keep, values, _NEVER).reshape(batch, pool)
    best, place = top_k(ranked, batch, taken)
    alive = best > _PRESENT
    if batch > 1:
        place = place + (np.arange(batch, dtype=np.int32) * np.int32(pool))[:, None]
    box = corners.reshape(batch * pool, 4).take(place)
    label = class_of.reshape(batch * pool).take(place)
    score = best.sigmoid() if p.sigmoid else best
    total = alive.cast(TensorProto.FLOAT).sum(1, keepdims=True)
    b.output(total.cast(TensorProto.INT32), outputs[0])
    missing = p.rows - taken
    rows = (
        where(alive.unsqueeze(2), box, 0.0),
        where(alive, score, 0.0),
        where(alive, label, np.int32(0)),
    )
    for value, name, shape, kind in zip(
        rows, outputs[1:], ((batch, missing, 4), (batch, missing), (batch, missing)),
        (np.float32, np.float32, np.int32), strict=True,
    ):  # fmt: skip
        b.output(concat(value, np.zeros(shape, kind), axis=1) if missing else value, name)


def _of(dtype: int, value: float) -> np.generic:
    kind: type[np.generic] = helper.tensor_dtype_to_np_dtype(dtype).type
    return kind(value)
