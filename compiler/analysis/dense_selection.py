"""What a dense head selects of each level: the candidates above the threshold that its TopK keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import onnx_graphsurgeon as gs

from onnxgraft.analysis.provenance import POSTPROCESSING, refuse_change
from onnxgraft.errors import Refusal
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.traverse import ancestors_before, back_through, dims, first_ancestor, producer, scalar, value


def joined_candidates(output: gs.Tensor, nms: gs.Node) -> gs.Tensor:
    """What the results of suppression are selected from.

    Raises:
        Refusal: the output is not selected by the suppression, or changed behind it.
    """

    def selects(node: gs.Node) -> bool:
        if node.op != "Gather" or value(node.inputs[1]) is not None:
            return False
        return producer(back_through(node.inputs[1], RESHAPING | {"Slice"})) is nms

    gather = producer(output)
    while gather is not None and not selects(gather):  # along what is selected, not along what decides
        data = next((t for t in gather.inputs if value(t) is None), None)
        gather = producer(data) if data is not None else None
    if gather is None:
        raise Refusal(f"output {output.name!r} is not selected by the suppression of boxes", nms.name)
    joined = gather.inputs[0]
    refuse_change(output, lambda t: t is joined, f"values of output {output.name!r}", POSTPROCESSING)
    return joined


def parts_of(joined: gs.Tensor) -> list[gs.Tensor]:
    """The candidates of each level, or of each class (SSD), that are joined there."""
    node = producer(joined)
    return list(node.inputs) if node is not None and node.op == "Concat" else [joined]


@dataclass(frozen=True)
class Selection:
    """One level: its TopK over thresholded scores, and the tensors around it."""

    topk: gs.Node
    limit: int  # the TopK's largest k
    threshold: float
    scores: gs.Tensor  # [H*W*A, K] probabilities
    pairs: gs.Tensor  # [k, 2] anchor and class of each candidate, or [k], their number in the flat scores
    decoded: gs.Tensor  # [k, 4]
    labels: gs.Tensor  # [k]
    boxes: gs.Tensor  # [k, 4], what the suppression gets: `decoded`, or that clipped to the image

    def locations(self) -> int:
        return dims(self.scores, 2, "the scores of a level")[0]

    def classes(self) -> int:
        return dims(self.scores, 2, "the scores of a level")[1]


def selection_of(decoded: gs.Tensor, best: gs.Tensor, labels: gs.Tensor) -> Selection:
    topk = producer(back_through(best, RESHAPING))
    if topk is None or topk.op != "TopK":
        raise Refusal("the scores of a level do not come from its TopK", topk.name if topk else best.name)
    compare = first_ancestor(topk.inputs[0], lambda n: n.op in ("Greater", "GreaterOrEqual", "Less", "Conv"))
    threshold = scalar(compare.inputs[1]) if compare is not None and compare.op == "Greater" else None
    if compare is None or threshold is None:
        raise Refusal("the candidates of this TopK are not those above a constant score", topk.name)
    made = first_ancestor(compare.inputs[0], lambda n: n.op in ("Softmax", "Sigmoid", "Conv"))
    if made is not None and made.op == "Softmax":
        refuse_softmax(made)
    chosen = producer(topk.inputs[0])
    if chosen is None or chosen.op != "GatherND" or chosen.inputs[0] is not compare.inputs[0]:
        raise Refusal("this TopK does not rank the scores that are compared with the threshold", topk.name)
    pairs = next((n for n in topk.outputs[1].outputs if n.op == "Gather" and n.inputs[1] is topk.outputs[1]), None)
    if pairs is None:
        raise Refusal("the indices of this TopK select no anchors and classes", topk.name)
    scores = compare.inputs[0]
    while len(scores.shape or ()) == 1 and (before := producer(scores)) is not None and before.op in RESHAPING:
        scores = before.inputs[0]
    plain = before_clip(decoded)
    return Selection(topk, largest_k(topk), round(threshold, 6), scores, pairs.outputs[0], plain, labels, decoded)


def refuse_softmax(made: gs.Node) -> NoReturn:
    """Raises Refusal for a head whose scores a softmax makes, and which does not rank each class's column of them, as SSD."""
    raise Refusal("the candidates of a dense head are ranked here by a softmax over classes and background, as in SSD: but not "
                  "each class's of all levels by a TopK of its own, as torchvision's does, and RetinaNet and FCOS have a "
                  "sigmoid", made.name)  # fmt: skip


def before_clip(boxes: gs.Tensor) -> gs.Tensor:
    """The boxes that clip_boxes_to_image of torchvision clips; `boxes` themselves where it does not."""
    joined = producer(back_through(boxes, RESHAPING))
    if joined is None or joined.op != "Concat":
        return boxes
    clips = [producer(back_through(t, RESHAPING)) for t in joined.inputs]
    found = {id(t): t for n in clips if n is not None and n.op == "Clip" and len(n.inputs) > 2 and n.inputs[1].name
             and (cut := producer(n.inputs[0])) is not None and cut.op == "Slice" for t in cut.inputs[:1]}  # fmt: skip
    return next(iter(found.values())) if len(found) == 1 and all(clips) else boxes


def largest_k(topk: gs.Node) -> int:
    """The bound of a k that is the smaller one of it and the number of candidates."""
    for node in ancestors_before(topk.inputs[1], {"Clip", "Min", "ReduceMin", "NonZero"}):
        bounds = [node.inputs[2]] if node.op == "Clip" and len(node.inputs) > 2 else []
        bounds += list(node.inputs) if node.op == "Min" else []
        joined = producer(node.inputs[0]) if node.op == "ReduceMin" else None  # torchvision's _topk_min
        bounds += list(joined.inputs) if joined is not None and joined.op == "Concat" else []
        for bound in bounds:
            if (k := scalar(bound)) is not None:
                return int(k)
    raise Refusal("the number of candidates that this TopK keeps has no constant bound", topk.name)
