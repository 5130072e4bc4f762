"""EfficientNMS_TRT, version 1: batched, class-aware non-maximum suppression.

Formula source: TensorRT OSS 11.1, plugin/efficientNMSPlugin (read for facts). What it does:

1. The threshold is taken to score space: with score_activation it is the logit of
   score_threshold, or -32768 where score_threshold <= 0.
2. Elements of [N, C] with score >= threshold and class != background_class enter.
   *Dense case*: where score_threshold (after activation) is below 0.007, every element enters,
   those that failed with the score -32768 and whatever class they have. They can come out at the
   tail of the detections, with score -32768, or sigmoid(-32768) = 0 with score_activation.
3. The 5000 best per image, across classes, go on; ties keep the order of the [N, C] index.
4. Greedy suppression at IoU >= iou_threshold, within a class or (class_agnostic) across.
5. The first max_output_boxes survivors are given out; unused rows are zero in all outputs.

Deviations: a NaN score counts as below the threshold (the plugin's dense case sorts it first);
corners given in the wrong order are swapped exactly (the plugin swaps by adding and subtracting).
A box with a NaN coordinate neither suppresses nor is suppressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from onnxgraft.errors import PluginError
from onnxgraft.ir.value import Value, concat, where
from onnxgraft.plugins.builder import Builder
from onnxgraft.plugins.native.nms import NmsProblem, lower_nms
from onnxgraft.plugins.op import PluginOp, Shape
from onnxgraft.plugins.schema import Attribute, choice, flag

CAP = 5000
"""Boxes per image that enter the suppression, across classes."""
BELOW = -32768.0
"""Score of an element that failed the threshold in the dense case."""
DENSE = 0.007
"""Thresholds below this (after activation) make the plugin take its dense path."""
_FLOAT, _INT = AttributeProto.FLOAT, AttributeProto.INT


def score_limit(threshold: float, activation: int) -> tuple[float, bool]:
    """The threshold in the space of the scores given, and whether the dense case holds."""
    t, one = np.float32(threshold), np.float32(1)
    limit, knee = t, np.float32(DENSE)
    if activation:
        knee = np.log(knee / (one - knee))
        limit = np.float32(BELOW) if t <= 0 else np.log(t / (one - t))
    return float(limit), bool(limit < knee)


class EfficientNMS(PluginOp):
    """boxes [B,N,4], [B,N,1,4] or [B,N,C,4], scores [B,N,C] (float32 or float16) ->
    num_detections [B,1] int32, boxes [B,M,4] corners, scores [B,M], classes [B,M] int32.

    The plugin's third input (anchors to decode against) is refused: decode in the graph, where the
    deltas' weights and the scale clamp have a place.
    """

    op_type = "EfficientNMS_TRT"
    version = "1"
    inputs = ("boxes", "scores")
    outputs = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
    targets = frozenset({"tensorrt"})
    releases: ClassVar[tuple[tuple[str, str], ...]] = (("8.5", "1"),)
    attributes_since: ClassVar[Mapping[str, str]] = {"class_agnostic": "8.6"}
    deprecated = "10.12"
    group = "nms"
    cap: ClassVar[int | None] = CAP
    attributes = (
        Attribute(
            "score_threshold", "float", "keep score >= this (a probability with score_activation)",
            required=True, allowed="at least 0", check=lambda v: v >= 0,
        ),
        Attribute(
            "iou_threshold", "float", "suppress at IoU >= this",
            required=True, allowed="above 0", check=lambda v: v > 0,
        ),
        Attribute(
            "max_output_boxes", "int", "rows of the outputs per image, M",
            required=True, allowed="at least 1", check=lambda v: v >= 1,
        ),
        Attribute("background_class", "int", "class to ignore; -1 for none", required=True),
        flag("score_activation", 0, "1: scores are logits, outputs are sigmoid", required=True),
        flag("class_agnostic", 0, "1: boxes of different classes suppress each other"),
        flag("box_coding", 0, "0: corners x1,y1,x2,y2; 1: centre and size", required=True),
    )  # fmt: skip
    options = (
        Attribute(
            "max_candidates", "int",
            "candidates per image that enter; 0: all, at most 3840 (grouping box: all). May exceed the plugin's cap of 5000",
            0, allowed="0 or more", check=lambda v: v >= 0,
        ),
        choice(
            "grouping", "flat", ("flat", "box"),
            "flat: the best candidates of all boxes and classes. box: one candidate of each box, whose scores pass the "
            "threshold in one class at most (a dense head's)",
        ),
        flag(
            "below_threshold_tail", 1,
            "1: the dense case's elements below the threshold come out at the tail, as in the "
            "plugin; 0: they never enter",
        ),
        flag("presorted", 0, "1: every image's scores of one class come best first, so that nothing need be sorted"),
        flag(
            "in_place", 0,
            "1: what survives stays in its row and the others' rows are zero, for callers that sort anyway; where every "
            "candidate has a row",
        ),
        choice(
            "matmul", "float32", ("float32", "float16"),
            "type of the suppression product; both are exact, float16 halves its memory and is "
            "needed on SM75",
        ),
    )  # fmt: skip

    def infer_shapes(self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape]) -> list[Shape]:
        rows = self.validate(attrs, input_shapes)["max_output_boxes"]
        batch = input_shapes[0][0]
        return [(batch, 1), (batch, rows, 4), (batch, rows), (batch, rows)]

    def _check(self, attrs: Mapping[str, Any], shapes: list[Shape], where: str) -> None:
        boxes, scores = shapes
        if len(scores) != 3:
            raise PluginError(f"{where}: scores {list(scores)} must be [B, N, C]")
        batch, count, classes = scores
        if boxes not in ((batch, count, 4), (batch, count, 1, 4), (batch, count, classes, 4)):
            raise PluginError(
                f"{where}: boxes {list(boxes)} must be [{batch}, {count}, 4], "
                f"[{batch}, {count}, 1, 4] or [{batch}, {count}, {classes}, 4] to fit the scores"
            )
        if attrs["score_activation"] and attrs["score_threshold"] >= 1:
            raise PluginError(
                f"{where}: score_threshold={attrs['score_threshold']} must be below 1 "
                "with score_activation"
            )

    def lower(
        self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape], options: Mapping[str, Any] | None = None
    ) -> onnx.GraphProto:
        """See `native.nms`. Equal to `function` wherever the candidates fit `max_candidates`."""
        complete = self.validate(attrs, input_shapes)
        chosen = self.lowering_options(options)
        limit, dense = score_limit(complete["score_threshold"], complete["score_activation"])
        tail = BELOW if dense and chosen["below_threshold_tail"] else None
        problem = NmsProblem.of(complete, chosen, input_shapes, limit, tail)
        return lower_nms(problem, self.inputs, self.outputs)

    def function(self, opset: int = 17) -> onnx.FunctionProto:
        b = Builder(function=True)
        boxes, scores = b.input("boxes"), b.input("scores")
        agnostic = b.attribute("class_agnostic", _INT).equal(1)
        activation = b.attribute("score_activation", _INT).equal(1)

        shape = scores.sizes()
        count, classes = shape.take([1]), shape.take([2])
        flat = scores.cast(TensorProto.FLOAT).reshape(0, -1)
        limit, dense = self._limit(b, activation)
        element = b.op("Range", 0, (count * classes).squeeze(), 1)
        foreground = ~(element % classes).equal(b.attribute("background_class", _INT))
        keyed = where((flat >= limit) & foreground, flat, BELOW)

        k = count * classes if self.cap is None else (count * classes).min([self.cap])
        values, index = keyed.topk(k, axis=-1)
        class_of = index % classes
        corners = self._corners(b, boxes, index, count, classes)
        rank = self._rank(b, k, values, limit, dense)
        group = where(agnostic, 0, class_of).unsqueeze(1)
        groups = b.op("Range", 0, where(agnostic, 1, classes.squeeze()), 1)
        per_class = where(group.equal(groups.unsqueeze(0, 2)), rank.unsqueeze(1), 0.0)

        rows = b.attribute("max_output_boxes", _INT).reshape(1)
        kept = self._suppressed(b, corners, per_class, rank, rows)
        taken = rows.min(k)
        order, position = kept.topk(taken, axis=-1)
        alive, missing = order > 0.5, rows - taken
        chosen = values.take_along(position, axis=1)
        chosen = where(activation, chosen.sigmoid(), chosen)
        chosen_boxes = corners.take_nd(position.unsqueeze(2), batch_dims=1)
        chosen_class = class_of.take_along(position, axis=1)

        row_pad = concat([0, 0, 0], missing, axis=0)
        box_pad = concat([0, 0, 0, 0], missing, [0], axis=0)
        b.output(alive.cast(TensorProto.INT32).sum(1, keepdims=True), "num_detections")
        padded = where(alive.unsqueeze(2), chosen_boxes, 0.0).op("Pad", box_pad)
        b.output(padded.op("CastLike", boxes), "detection_boxes")
        padded = where(alive, chosen, 0.0).op("Pad", row_pad)
        b.output(padded.op("CastLike", scores), "detection_scores")
        padded = where(alive, chosen_class, 0).op("Pad", row_pad)
        b.output(padded.cast(TensorProto.INT32), "detection_classes")
        return self._function(b.nodes, opset)

    @staticmethod
    def _rank(b: Builder, k: Value, values: Value, limit: Value, dense: Value) -> Value:
        """K, K-1, ... 1 for candidates with values [B,K] that enter, best first, else 0, float32.

        Ranks stand for scores in the suppression: distinct, positive and exact, so that ties keep their order and a score
        of -32768 passes the op's own score threshold.
        """
        number = k.squeeze()
        rank = (number - b.op("Range", 0, number, 1)).cast(TensorProto.FLOAT)
        return where((values >= limit) | dense, rank, 0.0)

    def _suppressed(self, b: Builder, corners: Value, per_class: Value, rank: Value, rows: Value) -> Value:
        """The ranks [B,K] of the candidates that survive, 0 for the others."""
        survivors = b.op(
            "NonMaxSuppression", self._finite(b, corners), per_class, rows, self._strict_iou(b), [0.5]
        )
        place = survivors.take([0, 2], axis=1)
        return b.op("ScatterND", rank * 0.0, place, rank.take_nd(place))

    def _limit(self, b: Builder, activation: Value) -> tuple[Value, Value]:
        threshold = b.attribute("score_threshold", _FLOAT)
        logit = (threshold / (1.0 - threshold)).log()
        logit = where(threshold > 0.0, logit, BELOW)
        limit = where(activation, logit, threshold)
        knee = np.log(np.float32(DENSE) / (np.float32(1) - np.float32(DENSE)))
        return limit, limit < where(activation, knee, np.float32(DENSE))

    def _corners(self, b: Builder, boxes: Value, index: Value, count: Value, classes: Value) -> Value:
        """[B,K,4] corners of the elements at `index` [B,K] of the flattened [N,C]."""
        table = boxes.cast(TensorProto.FLOAT).reshape(0, -1, 4)
        boxes_each = table.sizes().take([1]) / count  # 1 shared, C per class
        row = index * boxes_each / classes
        box = table.take_nd(row.unsqueeze(2), batch_dims=1)
        first, second = box.take([0, 1], axis=2), box.take([2, 3], axis=2)
        half = second * 0.5
        decoded = concat(first - half, first + half, axis=2)
        return where(b.attribute("box_coding", _INT).equal(1), decoded, box)

    def _finite(self, b: Builder, corners: Value) -> Value:
        """NaN boxes become empty, which overlap nothing, as NaN does in the plugin."""
        total = corners.sum(2, keepdims=True)
        return where(total.isnan(), 0.0, corners)

    def _strict_iou(self, b: Builder) -> Value:
        """The float just below iou_threshold: the op suppresses at IoU > this."""
        threshold = b.attribute("iou_threshold", _FLOAT)
        below = threshold * np.float32(1 - 2.0**-24)
        return below.min(1.0).reshape(1)
