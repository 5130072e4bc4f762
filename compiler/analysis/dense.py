"""Recognises dense detectors (RetinaNet, FCOS, SSD): heads that classify every location, without proposals."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.anchors import grid_strides
from onnxgraft.analysis.box_coder import measure_coder, verify_coder, verify_linear_coder
from onnxgraft.analysis.class_head import analyse_class_head
from onnxgraft.analysis.class_selection import ranks_classes
from onnxgraft.analysis.dense_levels import shared_feature, strides_apart
from onnxgraft.analysis.dense_selection import Selection, joined_candidates, parts_of, selection_of
from onnxgraft.analysis.image_input import analyse_input
from onnxgraft.analysis.outputs import recognise_outputs
from onnxgraft.analysis.provenance import (
    iou_threshold,
    kept_after,
    nms_of,
    refuse_mixed_classes,
    scalars_near,
)
from onnxgraft.detector.geometry import cell_anchors
from onnxgraft.detector.reference import by_location, sigmoid
from onnxgraft.detector.spec import BoxCoder, DenseHead, DenseLevel, DetectorSpec, Outputs
from onnxgraft.errors import Refusal
from onnxgraft.ir.evaluate import evaluate, repeated
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.traverse import ancestors_before, contains_op, dims

_OF_FLAT = frozenset({"Div", "Sub", "Where"})  # an anchor's number of that of a pair: a division that rounds down
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
    if head.activation == "softmax":  # torchvision's alone, whose pictures are RGB; SSDlite's mean does not tell
        known = image if image.order_known else replace(image, order="RGB")
        return DetectorSpec(family="ssd", image=known, outputs=outputs, dense=head)
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
    joined = [joined_candidates(tensor, nms[0]) for tensor in (boxes, scores, classes)]
    parts = [parts_of(tensor) for tensor in joined]
    if len({len(part) for part in parts}) != 1:
        raise Refusal("boxes, scores and classes are joined of different numbers of parts", nms[0].name)
    if ranks_classes(parts[1]):
        return analyse_class_head(graph, joined, nms, image)
    selections = [selection_of(*level) for level in zip(*parts, strict=True)]
    levels: list[DenseLevel] = []
    coder: Coder | None = None
    for selection in sorted(selections, key=lambda s: s.locations()):  # measured on the smallest, verified on all
        level, coder = _level(graph, selection, image, coder)
        levels.append(level)
    levels = strides_apart(sorted(levels, key=lambda level: level.stride))
    same = {"strides": len({level.stride for level in levels}) == len(levels)}
    same["thresholds"] = len({s.threshold for s in selections}) == 1
    same["classes"] = len({s.classes() for s in selections}) == 1
    same["clipping"] = len({s.boxes is s.decoded for s in selections}) == 1
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
        clipped_first=selections[0].boxes is not selections[0].decoded,
    )


def _level(graph: Graph, chosen: Selection, image: tuple[int, int], known: Coder | None) -> tuple[DenseLevel, Coder]:
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

    decode = repeated(graph, [chosen.decoded, chosen.labels], threads=None)

    def respond(offsets: np.ndarray) -> np.ndarray:
        planes = offsets.reshape(1, height, width, per_cell * 4).transpose(0, 3, 1, 2)
        pairs = np.stack([np.arange(count), np.arange(count)[::-1] % classes], 1)
        fed = pairs if len(chosen.pairs.shape or ()) == 2 else pairs @ [classes, 1]
        boxes, labels = decode({deltas.name: np.ascontiguousarray(planes), chosen.pairs.name: fed})
        if not np.array_equal(labels.reshape(-1), pairs[:, 1]):
            raise Refusal("the classes of candidates are not those of their scores", node)
        return boxes.reshape(-1, 4)

    if known is None:
        known = _coder(respond, generated, chosen)
    elif known == "linear":
        verify_linear_coder(respond, generated, node)
    else:
        verify_coder(respond, generated, known, node)
    stride, stride_y = grid_strides(generated, height, width, image, node)
    cells, offset = cell_anchors(generated[:per_cell], stride)
    level = DenseLevel(
        stride=stride,
        stride_y=stride_y,
        height=height,
        width=width,
        cell_anchors=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in cells),
        anchor_offset=offset,
        topk=chosen.limit,
        feature_tensor=shared_feature(logits, deltas).name,
        logits_tensor=logits.name,
        deltas_tensor=deltas.name,
        centerness_tensor=centerness.name if centerness is not None else None,
        anchors_tensor=anchors.name,
        boxes_tensor=chosen.boxes.name,
        scores_tensor=chosen.topk.outputs[0].name,
        classes_tensor=chosen.labels.name,
    )
    return level, known


def _score_maps(graph: Graph, chosen: Selection) -> tuple[gs.Tensor, gs.Tensor | None]:
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
    expected = sigmoid(by_location(values[0], classes))
    if len(maps) == 2:
        expected = np.sqrt(expected * sigmoid(by_location(values[1], 1)))
    error = float(np.abs(found.reshape(count, classes) - expected).max())
    if not error < _TOLERANCE:
        formula = "sqrt(sigmoid(class) sigmoid(centerness))" if len(maps) == 2 else "sigmoid(class)"
        raise Refusal(f"scores differ from {formula} by {error:.3g}: another head than RetinaNet's or FCOS's",
                      chosen.topk.name)  # fmt: skip
    return maps[0], maps[1] if len(maps) == 2 else None


def _gathered(chosen: Selection) -> tuple[gs.Tensor, gs.Tensor]:
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
            elif node.op in RESHAPING | {"Split", "Slice", "Gather"} | _OF_FLAT and id(node) not in seen:
                seen.add(id(node))
                queue += node.outputs
    if len(deltas) != 1 or len(anchors) != 1:
        raise Refusal(f"the candidates of this TopK gather deltas of {len(deltas)} convolutions and {len(anchors)} "
                      "sets of anchors; expected one of each", chosen.topk.name)  # fmt: skip
    return deltas[0], anchors[0]


def _coder(respond: object, anchors: np.ndarray, chosen: Selection) -> Coder:
    """Deltas of nothing give the anchors themselves (Box2BoxTransform) or their centres (Box2BoxTransformLinear)."""
    assert callable(respond)
    still = respond(np.zeros(anchors.shape, np.float32))
    if np.abs(still[:, 2:] - still[:, :2]).max() < 1e-3:
        verify_linear_coder(respond, anchors, chosen.topk.name)
        return "linear"
    constants = scalars_near(chosen.decoded, {"Conv", "TopK", "NonZero"})
    return measure_coder(respond, anchors, constants, chosen.topk.name)
