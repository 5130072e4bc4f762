"""Recognises dense detectors (RetinaNet, FCOS): heads that classify every location, without proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.anchors import grid_stride
from onnxgraft.analysis.box_coder import measure_coder, verify_coder, verify_linear_coder
from onnxgraft.analysis.image_input import analyse_input
from onnxgraft.analysis.outputs import recognise_outputs
from onnxgraft.analysis.parts import hold_dense
from onnxgraft.analysis.provenance import (
    POSTPROCESSING,
    iou_threshold,
    kept_after,
    nms_of,
    refuse_change,
    refuse_mixed_classes,
    scalars_near,
)
from onnxgraft.detector.geometry import cell_anchors
from onnxgraft.detector.spec import BoxCoder, DenseHead, DenseLevel, DetectorSpec, Outputs
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph, ancestors
from onnxgraft.ir.traverse import (
    RESHAPING,
    ancestors_before,
    back_through,
    contains_op,
    dims,
    first_ancestor,
    producer,
    scalar,
    value,
)

_TOLERANCE = 1e-5  # of scores, which are probabilities
Coder = BoxCoder | Literal["linear"]


def matches(graph: Graph) -> bool:
    """Whether the graph classifies boxes (an integer output) that it suppresses, but pools none."""
    kinds = {node.op for node in graph.nodes}
    suppresses = "NonMaxSuppression" in kinds or any(contains_op(n, "NonMaxSuppression") for n in graph.nodes)
    classifies = any(t.dtype is not None and np.issubdtype(np.dtype(t.dtype), np.integer) and len(t.shape or ()) == 1
                     and isinstance(t, gs.Variable) and t.shape != [2] for t in graph.gs.outputs)  # fmt: skip
    return suppresses and classifies and "RoiAlign" not in kinds


def analyse_dense(graph: Graph) -> DetectorSpec:
    """Recognise a dense detector in a simplified graph.

    Raises:
        Refusal: names the node and the reason.
    """
    image = analyse_input(graph)
    outputs = recognise_outputs(graph)
    head = _head(graph, outputs, (image.height, image.width))
    hold_dense(graph, outputs, head, (image.height, image.width))
    family = "fcos" if head.levels[0].centerness_tensor else "retinanet"
    return DetectorSpec(family=family, image=image, outputs=outputs, dense=head)


def _head(graph: Graph, outputs: Outputs, image: tuple[int, int]) -> DenseHead:
    boxes, scores, classes = (
        graph.tensor(name or "") for name in (outputs.boxes_tensor, outputs.scores_tensor, outputs.classes_tensor)
    )
    nms = nms_of(boxes)
    if nms is None:
        raise Refusal("no non-maximum suppression makes these boxes", boxes.name)
    refuse_mixed_classes(nms[0], classes)
    parts = [_candidates(tensor, nms[0]) for tensor in (boxes, scores, classes)]
    if len({len(part) for part in parts}) != 1:
        raise Refusal("boxes, scores and classes are joined of different numbers of levels", nms[0].name)
    selections = [_selection(*level) for level in zip(*parts, strict=True)]
    levels: list[DenseLevel] = []
    coder: Coder | None = None
    for selection in sorted(selections, key=lambda s: s.locations()):  # measured on the smallest, verified on all
        level, coder = _level(graph, selection, image, coder)
        levels.append(level)
    levels.sort(key=lambda level: level.stride)
    same = {"strides": len({level.stride for level in levels}) == len(levels)}
    same["thresholds"] = len({s.threshold for s in selections}) == 1
    same["classes"] = len({s.classes() for s in selections}) == 1
    same["scores"] = len({level.centerness_tensor is None for level in levels}) == 1
    for what, consistent in same.items():
        if not consistent:
            raise Refusal(f"the levels' {what} do not fit together", selections[0].topk.name)
    return DenseHead(
        levels=tuple(levels),
        num_classes=selections[0].classes(),
        coder=None if coder == "linear" else coder,
        score_threshold=selections[0].threshold,
        nms_threshold=iou_threshold(nms[1]),
        detections_per_image=kept_after(nms[0]),
    )


def _candidates(output: gs.Tensor, nms: gs.Node) -> list[gs.Tensor]:
    """What the results of suppression are selected from, level by level."""

    def selects(node: gs.Node) -> bool:
        if node.op != "Gather" or value(node.inputs[1]) is not None:
            return False
        return producer(back_through(node.inputs[1], RESHAPING | {"Slice"})) is nms

    gather = first_ancestor(output, selects)
    if gather is None:
        raise Refusal(f"output {output.name!r} is not selected by the suppression of boxes", nms.name)
    joined = gather.inputs[0]
    refuse_change(output, lambda t: t is joined, f"values of output {output.name!r}", POSTPROCESSING)
    node = producer(joined)
    return list(node.inputs) if node is not None and node.op == "Concat" else [joined]


@dataclass(frozen=True)
class _Selection:
    """One level: its TopK over thresholded scores, and the tensors around it."""

    topk: gs.Node
    limit: int  # the TopK's largest k
    threshold: float
    scores: gs.Tensor  # [H*W*A, K] probabilities
    pairs: gs.Tensor  # [k, 2] anchor and class of each candidate
    decoded: gs.Tensor  # [k, 4]
    labels: gs.Tensor  # [k]

    def locations(self) -> int:
        return dims(self.scores, 2, "the scores of a level")[0]

    def classes(self) -> int:
        return dims(self.scores, 2, "the scores of a level")[1]


def _selection(decoded: gs.Tensor, best: gs.Tensor, labels: gs.Tensor) -> _Selection:
    topk = producer(back_through(best, RESHAPING))
    if topk is None or topk.op != "TopK":
        raise Refusal("the scores of a level do not come from its TopK", topk.name if topk else best.name)
    compare = first_ancestor(topk.inputs[0], lambda n: n.op in ("Greater", "GreaterOrEqual", "Less", "Conv"))
    threshold = scalar(compare.inputs[1]) if compare is not None and compare.op == "Greater" else None
    if compare is None or threshold is None:
        raise Refusal("the candidates of this TopK are not those above a constant score", topk.name)
    chosen = producer(topk.inputs[0])
    if chosen is None or chosen.op != "GatherND" or chosen.inputs[0] is not compare.inputs[0]:
        raise Refusal("this TopK does not rank the scores that are compared with the threshold", topk.name)
    pairs = next((n for n in topk.outputs[1].outputs if n.op == "Gather" and n.inputs[1] is topk.outputs[1]), None)
    if pairs is None:
        raise Refusal("the indices of this TopK select no anchors and classes", topk.name)
    return _Selection(topk, _largest_k(topk), round(threshold, 6), compare.inputs[0], pairs.outputs[0], decoded, labels)


def _largest_k(topk: gs.Node) -> int:
    """The bound of a k that is the smaller one of it and the number of candidates."""
    for node in ancestors_before(topk.inputs[1], {"Clip", "Min", "NonZero"}):
        bounds = [node.inputs[2]] if node.op == "Clip" and len(node.inputs) > 2 else []
        bounds += list(node.inputs) if node.op == "Min" else []
        for bound in bounds:
            if (k := scalar(bound)) is not None:
                return int(k)
    raise Refusal("the number of candidates that this TopK keeps has no constant bound", topk.name)


def _level(graph: Graph, chosen: _Selection, image: tuple[int, int], known: Coder | None) -> tuple[DenseLevel, Coder]:
    node = chosen.topk.name
    count, classes = chosen.locations(), chosen.classes()
    logits, centerness = _score_maps(graph, chosen)
    _, channels, height, width = dims(logits, 4, "the class logits")
    per_cell = channels // classes
    deltas, anchors = _gathered(chosen)
    if dims(deltas, 4, "the anchor deltas")[1:] != [4 * per_cell, height, width] or per_cell * height * width != count:
        raise Refusal(f"{count} anchors on {height}x{width} locations do not fit deltas {deltas.shape}", node)
    generated = evaluate(graph, [anchors])[0].reshape(-1, 4)
    if len(generated) != count:
        raise Refusal(f"{len(generated)} anchors for {count} predictions", node)

    def respond(offsets: np.ndarray) -> np.ndarray:
        planes = offsets.reshape(1, height, width, per_cell * 4).transpose(0, 3, 1, 2)
        pairs = np.stack([np.arange(count), np.arange(count)[::-1] % classes], 1)
        feeds = {deltas.name: np.ascontiguousarray(planes), chosen.pairs.name: pairs}
        boxes, labels = evaluate(graph, [chosen.decoded, chosen.labels], feeds)
        if not np.array_equal(labels.reshape(-1), pairs[:, 1]):
            raise Refusal("the classes of candidates are not those of their scores", node)
        return boxes.reshape(-1, 4)

    if known is None:
        known = _coder(respond, generated, chosen)
    elif known == "linear":
        verify_linear_coder(respond, generated, node)
    else:
        verify_coder(respond, generated, known, node)
    stride = grid_stride(generated, height, width, image, node)
    cells, offset = cell_anchors(generated[:per_cell], stride)
    level = DenseLevel(
        stride=stride,
        height=height,
        width=width,
        cell_anchors=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in cells),
        anchor_offset=offset,
        topk=chosen.limit,
        feature_tensor=_feature(logits, deltas).name,
        logits_tensor=logits.name,
        deltas_tensor=deltas.name,
        centerness_tensor=centerness.name if centerness is not None else None,
        anchors_tensor=anchors.name,
        boxes_tensor=chosen.decoded.name,
        scores_tensor=chosen.topk.outputs[0].name,
        classes_tensor=chosen.labels.name,
    )
    return level, known


def _score_maps(graph: Graph, chosen: _Selection) -> tuple[gs.Tensor, gs.Tensor | None]:
    """Class logits and centerness of a level, whose part in the scores is measured."""
    maps = [n.outputs[0] for n in ancestors_before(chosen.scores, {"Conv"}) if n.op == "Conv"]
    if not 1 <= len(maps) <= 2:
        raise Refusal(f"the scores of a level depend on {len(maps)} convolutions; expected class logits and at most "
                      "a centerness", chosen.topk.name)  # fmt: skip
    maps.sort(key=lambda t: dims(t, 4, "the predictions of a level")[1], reverse=True)
    shapes = [dims(t, 4, "the predictions of a level") for t in maps]
    height, width = shapes[0][2:]
    count, classes = chosen.locations(), chosen.classes()
    per_cell = count // (height * width)
    if shapes[0][1] != per_cell * classes or any(s[1:] != [per_cell, height, width] for s in shapes[1:]):
        raise Refusal(f"predictions of shapes {shapes} do not fit scores of {count} anchors and {classes} classes",
                      chosen.topk.name)  # fmt: skip
    random = np.random.Generator(np.random.Philox(11))
    values = [random.uniform(-6, 6, shape).astype(np.float32) for shape in shapes]
    found = evaluate(graph, [chosen.scores], {t.name: v for t, v in zip(maps, values, strict=True)})[0]
    expected = _sigmoid(_by_location(values[0], classes))
    if len(maps) == 2:
        expected = np.sqrt(expected * _sigmoid(_by_location(values[1], 1)))
    error = float(np.abs(found.reshape(count, classes) - expected).max())
    if not error < _TOLERANCE:
        formula = "sqrt(sigmoid(class) sigmoid(centerness))" if len(maps) == 2 else "sigmoid(class)"
        raise Refusal(f"scores differ from {formula} by {error:.3g}: another head than RetinaNet's or FCOS's",
                      chosen.topk.name)  # fmt: skip
    return maps[0], maps[1] if len(maps) == 2 else None


def _by_location(planes: np.ndarray, size: int) -> np.ndarray:
    """permute_to_N_HWA_K (detectron2 meta_arch/dense_detector.py) of one image: [1, A*K, H, W] -> [H*W*A, K]."""
    _, _, height, width = planes.shape
    return planes.reshape(-1, size, height, width).transpose(2, 3, 0, 1).reshape(-1, size)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-values.astype(np.float64))))


def _gathered(chosen: _Selection) -> tuple[gs.Tensor, gs.Tensor]:
    """The deltas [1, 4A, H, W] and the anchors [H*W*A, 4] of which the candidates are gathered."""
    deltas: list[gs.Tensor] = []
    anchors: list[gs.Tensor] = []
    queue, seen = [chosen.pairs], set()
    while queue:
        tensor = queue.pop(0)
        for node in tensor.outputs:
            if node.op in ("Gather", "GatherND") and node.inputs[1] is tensor:
                convs = [n for n in ancestors_before(node.inputs[0], {"Conv"}) if n.op == "Conv"]
                deltas += [conv.outputs[0] for conv in convs]
                anchors += [] if convs else [node.inputs[0]]
            elif node.op in RESHAPING | {"Split", "Slice", "Gather"} and id(node) not in seen:
                seen.add(id(node))
                queue += node.outputs
    if len(deltas) != 1 or len(anchors) != 1:
        raise Refusal(f"the candidates of this TopK gather deltas of {len(deltas)} convolutions and {len(anchors)} "
                      "sets of anchors; expected one of each", chosen.topk.name)  # fmt: skip
    return deltas[0], anchors[0]


def _coder(respond: object, anchors: np.ndarray, chosen: _Selection) -> Coder:
    """Deltas of nothing give the anchors themselves (Box2BoxTransform) or their centres (Box2BoxTransformLinear)."""
    assert callable(respond)
    still = respond(np.zeros(anchors.shape, np.float32))
    if np.abs(still[:, 2:] - still[:, :2]).max() < 1e-3:
        verify_linear_coder(respond, anchors, chosen.topk.name)
        return "linear"
    constants = scalars_near(chosen.decoded, {"Conv", "TopK", "NonZero"})
    return measure_coder(respond, anchors, constants, chosen.topk.name)


def _feature(logits: gs.Tensor, deltas: gs.Tensor) -> gs.Tensor:
    """The feature map under both towers: the nearest tensor above the deltas that the logits depend on too."""
    above = {id(t) for node in ancestors(logits) for t in node.inputs if isinstance(t, gs.Variable)}
    for node in ancestors(deltas):
        for tensor in node.inputs:
            if id(tensor) in above and len(tensor.shape or ()) == 4:
                return tensor
    raise Refusal("class logits and deltas share no feature map", deltas.inputs[0].name)
