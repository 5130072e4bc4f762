"""Recognises the box head of detectron2's R-CNN family: FastRCNNOutputLayers.inference."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.box_coder import Decode, measure_coder
from onnxgraft.analysis.class_columns import first_class
from onnxgraft.analysis.provenance import (
    iou_threshold,
    just_below,
    kept_after,
    nms_of,
    refuse_change,
    refuse_mixed_classes,
    scalars_near,
    selected_from,
)
from onnxgraft.detector.spec import BoxCoder, BoxHead, CascadeStage, Outputs, Pooler
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import repeated
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import LINEAR, RESHAPING
from onnxgraft.ir.traverse import (
    ancestors,
    ancestors_before,
    back_through,
    binary,
    node_inputs,
    producer,
    scalar,
    value,
)


def analyse_box_head(graph: Graph, outputs: Outputs, stages: list[Pooler], image: tuple[int, int]) -> BoxHead:
    """Class scores, box regression and suppression between the last pooler of proposals and the detections.

    Raises:
        Refusal: no softmax or sigmoid scores, an unknown box coder, thresholds that are not constant.
    """
    pooler = stages[-1]
    proposals, pooled = graph.tensor(pooler.boxes_tensor), graph.tensor(pooler.pooled_tensor)
    scores = graph.tensor(outputs.scores_tensor or "")
    activation = _activation(graph, scores, stages, pooler)
    logits = activation.inputs[0]
    stop = [proposals, *(_activation(graph, scores, stages, stage).outputs[0] for stage in stages)]
    nms = nms_of(scores, stop)
    if nms is None:
        raise Refusal("no non-maximum suppression selects the detections", scores.name)
    final = _mean(activation, len(stages)) if len(stages) > 1 else activation.outputs[0]
    refuse_change(scores, lambda t: t is final, "scores of the detections")
    compared = _compared(scores, final, stop, nms[0])
    classes = _last_dim(logits, activation) - 1
    first = first_class(graph, compared, final, proposals, classes)
    decoded = _decoded_boxes(nms[0], proposals, pooled)
    refuse_change(graph.tensor(outputs.boxes_tensor or ""), lambda t: t is decoded, "boxes of the detections")
    labels = graph.tensor(outputs.classes_tensor or "")
    refuse_change(labels, _number_of_column if first else _index, "classes of the detections")
    refuse_mixed_classes(nms[0], labels)
    deltas = _regression(decoded, proposals, nms[0])
    width = _last_dim(deltas, nms[0])
    if width not in (4, 4 * (classes + first)):
        raise Refusal(f"{classes} classes need 4 or {4 * (classes + first)} box deltas, found {width}", nms[0].name)
    coder = _coder(graph, decoded, deltas, proposals, width // 4, image)
    return BoxHead(
        num_classes=classes,
        activation=activation.op.lower(),
        class_agnostic=width == 4 and classes > 1,
        coder=coder,
        score_threshold=round(scalar(compared.inputs[1]) or 0.0, 7),
        nms_threshold=iou_threshold(nms[1]),
        detections_per_image=kept_after(nms[0]),
        logits_tensor=logits.name,
        scores_tensor=activation.outputs[0].name,
        deltas_tensor=deltas.name,
        background_first=first == 1,
        min_box_size=_least_side(nms[0], decoded),
    )


def analyse_stages(graph: Graph, outputs: Outputs, stages: list[Pooler], image: tuple[int, int]) -> tuple[CascadeStage, ...]:
    """The heads before the last one of a cascade: class-agnostic deltas, decoded and clipped for the next pooler.

    Raises:
        Refusal: another box coder than Box2BoxTransform, or deltas per class.
    """
    found = []
    scores = graph.tensor(outputs.scores_tensor or "")
    for pooler, after in itertools.pairwise(stages):
        proposals, decoded = graph.tensor(pooler.boxes_tensor), graph.tensor(after.boxes_tensor)
        context = graph.tensor(after.pooled_tensor).inputs[0]
        deltas = _regression(decoded, proposals, context)
        if _last_dim(deltas, context) != 4:
            raise Refusal("a cascade's boxes between stages are not class-agnostic", context.name)
        activation = _activation(graph, scores, stages, pooler)
        coder = _coder(graph, decoded, deltas, proposals, 1, image)
        found.append(CascadeStage(pooler, coder, activation.inputs[0].name, activation.outputs[0].name, deltas.name))
    return tuple(found)


def _activation(graph: Graph, scores: gs.Tensor, stages: list[Pooler], pooler: Pooler) -> gs.Node:
    """The Softmax or Sigmoid that makes the class scores of one stage: it depends on no other stage's pooled features."""
    barrier = {id(t): t for t in (graph.tensor(p.pooled_tensor) for p in stages)}
    own = id(graph.tensor(pooler.pooled_tensor))
    for node in ancestors(scores, barrier):
        if node.op in ("Softmax", "Sigmoid"):
            above = ancestors(node.inputs[0], barrier)
            if any(id(t) == own for n in above for t in n.inputs):
                return node
    raise Refusal("no Softmax or Sigmoid makes the detections' scores", scores.name)


def _compared(scores: gs.Tensor, final: gs.Tensor, stop: list[gs.Tensor], nms: gs.Node) -> gs.Node:
    """The comparison of the scores themselves with a constant; of several, with the highest (it decides)."""
    barrier = {id(t): t for t in stop}
    compared = [n for n in ancestors(scores, barrier) if n.op == "Greater" and id(final) in selected_from(n.inputs[0])]
    compared = [n for n in compared if scalar(n.inputs[1]) is not None]
    if not compared:
        raise Refusal("no constant score threshold filters the detections", nms.name)
    return max(compared, key=lambda n: scalar(n.inputs[1]) or 0.0)


def _number_of_column(tensor: gs.Tensor) -> bool:
    """Whether a tensor numbers the columns of scores, as torchvision does where the background comes first."""
    return value(tensor) is not None or (bool(tensor.inputs) and tensor.inputs[0].op == "Range")


def _least_side(nms: gs.Node, decoded: gs.Tensor) -> float | None:
    """The side that both of a candidate exceed (torchvision's remove_small_boxes), None where none is dropped for its size.

    Raises:
        Refusal: width and height are compared with different numbers.
    """
    sides: set[float] = set()
    for start in node_inputs(nms):
        for node in ancestors(start, {id(decoded): decoded}):
            source = producer(back_through(node.inputs[0], RESHAPING)) if node.inputs else None
            number = scalar(node.inputs[1]) if node.op in ("Greater", "GreaterOrEqual") else None
            if number is not None and source is not None and source.op == "Sub" and _reads(source, decoded):
                sides.add(number if node.op == "Greater" else just_below(number))
    if len(sides) > 1:
        raise Refusal(f"widths and heights of candidates are compared with {sorted(sides)}, not with one number", nms.name)
    return sides.pop() if sides else None


def _reads(node: gs.Node, boxes: gs.Tensor) -> bool:
    return all(id(boxes) in selected_from(t) for t in node.inputs)


def _index(tensor: gs.Tensor) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == "NonZero"


def _mean(activation: gs.Node, stages: int) -> gs.Tensor:
    """The scores of all stages averaged, as CascadeROIHeads does."""
    tensor = activation.outputs[0]
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in ("Slice", "Add", "Sum", "Identity"):
        tensor = tensor.outputs[0].outputs[0]
    for node in tensor.outputs:
        scaled = binary(node) if node.op in ("Mul", "Div") else None
        if scaled is not None and any(abs(scaled[1] - share) < 1e-4 for share in (1 / stages, float(stages))):
            return node.outputs[0]
    raise Refusal(f"the scores of {stages} stages are not averaged", activation.name)


def _last_dim(tensor: gs.Tensor, context: gs.Node) -> int:
    if not tensor.shape or not isinstance(tensor.shape[-1], (int, np.integer)):
        raise Refusal(f"tensor {tensor.name!r} has no fixed last dimension: {tensor.shape}", context.name)
    return int(tensor.shape[-1])


def _decoded_boxes(nms: gs.Node, proposals: gs.Tensor, pooled: gs.Tensor) -> gs.Tensor:
    """The boxes before the score threshold selects among them, [R, C, 4] or [R, 4]."""
    for start in node_inputs(nms):
        for node in ancestors_before(start, {"Gemm", "MatMul", "Softmax", "Sigmoid", "NonZero"}):
            if node.op not in ("Gather", "GatherND") or len(node.inputs) < 2:
                continue
            data = node.inputs[0]
            selects = _by_condition(node)
            clipped = any(n.op in ("Clip", "Min") for n in ancestors_before(data, {"Exp", "Gemm", "MatMul", "NonZero"}))
            if selects and clipped:
                return _before_selections(data)
    raise Refusal("the boxes that the score threshold selects were not found", nms.name)


def _by_condition(node: gs.Node) -> bool:
    return any(n.op == "NonZero" for n in ancestors_before(node.inputs[1], {"NonZero", "Gemm", "MatMul"}))


def _before_selections(boxes: gs.Tensor) -> gs.Tensor:
    """Where conditions select boxes one after the other: what the first of them selects from."""
    node = producer(boxes)
    while node is not None and node.op in RESHAPING | {"Gather", "GatherND"}:
        if node.op in ("Gather", "GatherND") and _by_condition(node):
            return _before_selections(node.inputs[0])
        node = producer(node.inputs[0])
    return boxes


def _regression(decoded: gs.Tensor, proposals: gs.Tensor, context: gs.Node) -> gs.Tensor:
    earlier = {id(node) for node in ancestors(proposals)}  # of earlier stages
    nearby = ancestors_before(decoded, LINEAR | {"RoiAlign", "TopK"})
    found = [node for node in nearby if node.op in LINEAR and id(node) not in earlier]
    if len(found) != 1:
        raise Refusal(f"the boxes depend on {len(found)} linear layers, not on one for box deltas", context.name)
    output = found[0].outputs[0]
    if found[0].op == "MatMul" and len(output.outputs) == 1 and output.outputs[0].op == "Add":
        output = output.outputs[0].outputs[0]
    return output


def _coder(
    graph: Graph, decoded: gs.Tensor, deltas: gs.Tensor, proposals: gs.Tensor, per_box: int, image: tuple[int, int]
) -> BoxCoder:
    centre = np.array([image[1] / 2, image[0] / 2])

    def boxes(side: float) -> np.ndarray:
        half = side / 2
        row = [centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half]
        return np.array([row] * 8, np.float32)

    decode = repeated(graph, [decoded])

    def responder(reference: np.ndarray) -> Decode:
        def respond(offsets: np.ndarray) -> np.ndarray:
            feeds = {deltas.name: np.tile(offsets.astype(np.float32), (1, per_box)), proposals.name: reference}
            return decode(feeds)[0].reshape(len(reference), -1, 4)[:, -1]

        return respond

    large, tiny = boxes(min(image) / 4), boxes(min(image) / 512)
    constants = scalars_near(decoded, LINEAR | {"RoiAlign", "TopK"})
    return measure_coder(responder(large), large, constants, deltas.name, (responder(tiny), tiny))
