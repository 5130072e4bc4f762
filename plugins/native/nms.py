"""Non-maximum suppression in ops that TensorRT for RTX builds: candidates in, survivors out. See `native.suppression`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxgraft.errors import PluginError
from onnxgraft.ir.value import Value, concat, where
from onnxgraft.plugins.builder import Builder, tensor_info
from onnxgraft.plugins.native.suppression import Rule, suppress
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
    one_class: bool
    presorted: bool
    in_place: bool
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
            one_class=options["grouping"] == "box",
            presorted=bool(options["presorted"]),
            in_place=bool(options["in_place"]),
            matmul=TensorProto.FLOAT16 if options["matmul"] == "float16" else TensorProto.FLOAT,
        )

    @property
    def box_rows(self) -> int:
        """Boxes per image in the table: N shared, N*C per class."""
        return int(np.prod(self.boxes[1:-1]))

    @property
    def taken(self) -> int:
        """Candidates per image, K."""
        _, count, classes = self.scores
        if self.one_class:
            return min(self.candidates or count, count)
        return min(self.candidates or TOP_K_LIMIT, count * classes)

    def check(self) -> None:
        """Raises PluginError where the options do not fit the problem."""
        _, count, classes = self.scores
        if self.presorted and (classes > 1 or self.taken != count or self.box_rows != count):
            raise PluginError("lowering of EfficientNMS_TRT: presorted=1 needs one class and a place for every box")
        if self.in_place and self.rows != self.taken:
            raise PluginError(f"lowering of EfficientNMS_TRT: in_place=1 gives a row to each of {self.taken} candidates, "
                              f"max_output_boxes is {self.rows}")  # fmt: skip


def lower_nms(p: NmsProblem, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.GraphProto:
    """The graph of one problem: inputs boxes, scores; outputs as EfficientNMS gives them."""
    p.check()
    b = Builder()
    boxes, scores = b.input(inputs[0]), b.input(inputs[1])
    batch, _, classes = p.scores
    if p.presorted:
        values, corners = _threshold(b, p, scores).reshape(batch, p.taken), _coded(p, boxes.reshape(batch, p.taken, 4))
        class_of = b.constant(np.zeros((batch, p.taken), np.int32))
    else:
        values, element = _candidates(b, p, _threshold(b, p, scores))
        anchor = element / np.int32(classes)
        class_of = element - anchor * np.int32(classes)
        corners = _corners(p, boxes, anchor if p.box_rows == p.scores[1] else element)
    same_class = None if p.agnostic or classes == 1 else class_of
    rule = Rule(p.iou_threshold, None if p.in_place else p.rows, p.matmul)
    keep = suppress(b, corners, values > _PRESENT, same_class, (batch, p.taken), rule)
    (_in_place if p.in_place else _emit)(b, p, keep, values, corners, class_of, outputs)
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


def _candidates(b: Builder, p: NmsProblem, keyed: Value) -> tuple[Value, Value]:
    """The best K of each image: their scores [B,K], best first, and int32 places in the image's [N * C]."""
    batch, count, classes = p.scores
    if p.one_class and classes > 1:
        best, label = _best_class(keyed)
        values, row = top_k(best, batch, p.taken)
        return values, row * np.int32(classes) + label.take_along(row, axis=1)
    return top_k(keyed.reshape(batch, count * classes), batch, p.taken)


def _best_class(keyed: Value) -> tuple[Value, Value]:
    """Of scores [N,R,C], each box's best score [N,R] and its class, int32."""
    best, label = keyed.topk([1], axis=-1)
    return best.squeeze(2), label.squeeze(2).cast(TensorProto.INT32)


def _threshold(b: Builder, p: NmsProblem, scores: Value) -> Value:
    """Scores [B,N,C] with everything that does not enter put where TopK finds it last."""
    passes = scores >= np.float32(p.limit)
    classes = p.scores[2]
    if 0 <= p.background < classes:
        foreground = np.arange(classes) != p.background
        passes = passes & b.constant(foreground.reshape(1, 1, classes))
    return where(passes, scores, p.below)


def _corners(p: NmsProblem, boxes: Value, row: Value) -> Value:
    """[B,K,4] corners; `row` [B,K] indexes an image's own boxes."""
    batch = p.boxes[0]
    if batch > 1:
        first = np.arange(batch, dtype=np.int32) * np.int32(p.box_rows)
        row = row + first[:, None]
    return _coded(p, boxes.reshape(batch * p.box_rows, 4).take(row))


def _coded(p: NmsProblem, box: Value) -> Value:
    """Corners of boxes [B,K,4] as they were given."""
    if not p.centre_size:
        return box
    centre, half = box.take([0, 1], axis=2), box.take([2, 3], axis=2) * 0.5
    return concat(centre - half, centre + half, axis=2)


def _in_place(
    b: Builder, p: NmsProblem, keep: Value, values: Value, corners: Value, class_of: Value, outputs: Sequence[str]
) -> None:
    """Every candidate in its row, zero where it did not survive."""
    _give_out(b, p, keep, (corners, values, class_of), outputs)


def _emit(
    b: Builder, p: NmsProblem, keep: Value, values: Value, corners: Value, class_of: Value, outputs: Sequence[str]
) -> None:
    """The best `rows` survivors of each image, zero-padded."""
    pool = p.taken
    batch, taken = p.scores[0], min(p.rows, pool)
    best, place = top_k(where(keep, values, _NEVER), batch, taken)
    if batch > 1:
        place = place + (np.arange(batch, dtype=np.int32) * np.int32(pool))[:, None]
    box = corners.reshape(batch * pool, 4).take(place)
    label = class_of.reshape(batch * pool).take(place)
    _give_out(b, p, best > _PRESENT, (box, best, label), outputs)


def _give_out(b: Builder, p: NmsProblem, alive: Value, rows: tuple[Value, Value, Value], outputs: Sequence[str]) -> None:
    """Boxes, scores and classes [B,R,...] where `alive` [B,R], else zero, with zeros behind them."""
    box, best, label = rows
    batch, missing = p.scores[0], p.rows - min(p.rows, p.taken)
    score = best.sigmoid() if p.sigmoid else best
    total = alive.cast(TensorProto.FLOAT).sum(1, keepdims=True)
    b.output(total.cast(TensorProto.INT32), outputs[0])
    filled = (
        where(alive.unsqueeze(2), box, 0.0),
        where(alive, score, 0.0),
        where(alive, label, np.int32(0)),
    )
    for value, name, shape, kind in zip(
        filled, outputs[1:], ((batch, missing, 4), (batch, missing), (batch, missing)),
        (np.float32, np.float32, np.int32), strict=True,
    ):  # fmt: skip
        b.output(concat(value, np.zeros(shape, kind), axis=1) if missing else value, name)
