"""Recognises PointRend's mask head: features sampled at points of boxes instead of pooled, masks refined in rounds."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import BoxHead, MaskHead, Outputs, PointHead, PointMap, PointStep
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.ir.traverse import ancestors, ancestors_before, back_through, descendants, dims, first_ancestor, producer, value


def samples_points(masks: gs.Tensor) -> gs.Node | None:
    """A node that reads features between the cells of a map for these masks, or None."""
    return next((node for node in ancestors(masks) if node.op == "GridSample"), None)


def analyse_point_head(graph: Graph, outputs: Outputs) -> PointHead:
    """The rounds that make the masks of a detector's boxes, and the tensors between which each computes.

    Raises:
        Refusal: masks sampled at points by another head than PointRendMaskHead with a StandardPointHead.
    """
    masks, boxes = graph.tensor(outputs.masks_tensor or ""), graph.tensor(outputs.boxes_tensor or "")
    behind, order = descendants(boxes), {id(node): place for place, node in enumerate(graph.nodes)}
    rounds = _rounds(masks)
    read = [_Read(logits, behind, order) for logits, _ in rounds]
    for each, (_, refined) in zip(read, rounds, strict=True):
        each.points = each.chosen() if each is not read[0] else _square(refined) ** 2
    coarse = {id(each.coarse.inputs[0]): each.coarse.inputs[0] for each in read}
    if len(coarse) != 1:
        raise Refusal("the rounds that refine these masks begin with different coarse masks", read[-1].coarse.name)
    start = next(iter(coarse.values()))
    _square(start)
    grid = _Read(start, behind, order, points=False)
    side = _pooled_side(start, behind)
    grid.points = side * side
    maps = {tuple(each.maps) for each in read}
    if len(maps) != 1:
        raise Refusal("the rounds that refine these masks sample different maps", read[-1].coarse.name)
    for each in (grid, *read):
        each.fix_shapes()
    infer_shapes(graph)
    steps = tuple(_step(each, logits, refined) for each, (logits, refined) in zip(read, rounds, strict=True))
    return PointHead(side, tuple(grid.maps), grid.sampled, str(start.name), tuple(read[0].maps), steps)


def masks_of_points(head: PointHead, graph: Graph, box_head: BoxHead) -> MaskHead:
    """What picks a mask of the last round for each detection.

    Raises:
        Refusal: a channel count that fits no class rule.
    """
    last = graph.tensor(head.steps[-1].refined_tensor)
    channels = last.shape[1]
    if channels not in (1, box_head.num_classes):
        raise Refusal(f"{channels} mask channels for {box_head.num_classes} classes", last.name)
    return MaskHead(head.steps[-1].side, channels == 1 and box_head.num_classes > 1, last.name)


def _rounds(masks: gs.Tensor) -> list[tuple[gs.Tensor, gs.Tensor]]:
    """The logits of points and the grid [D, C, S, S] of each round, the first one's first."""
    scatter = first_ancestor(masks, lambda n: n.op == "ScatterElements")
    if scatter is None:
        raise _other(samples_points(masks), "no grid of logits is refined at some of its points")
    refined = next((t for t in _reshaped(scatter.outputs[0]) if len(t.shape or ()) == 4), scatter.outputs[0])
    found: list[tuple[gs.Tensor, gs.Tensor]] = []
    while True:
        found.append((back_through(scatter.inputs[2], RESHAPING), refined))
        resize = producer(back_through(scatter.inputs[0], RESHAPING))
        if resize is None or resize.op != "Resize":
            raise _other(scatter, "what is refined here is no grid of half the size, enlarged")
        refined = resize.inputs[0]
        source = back_through(refined, RESHAPING)
        before = producer(source)
        if before is None or before.op != "ScatterElements":
            return [(source, refined), *found[::-1]]
        scatter = before


def _reshaped(tensor: gs.Tensor) -> list[gs.Tensor]:
    return [node.outputs[0] for node in tensor.outputs if node.op == "Reshape"]


class _Read:
    """What the logits of a round, or the coarse masks, are predicted from: maps sampled at points, and coarse masks there."""

    def __init__(self, predicted: gs.Tensor, of_boxes: set[int], order: dict[int, int], points: bool = True) -> None:
        samples = [n for n in ancestors_before(predicted, {"GridSample"}) if n.op == "GridSample"]
        samples.sort(key=lambda node: order[id(node)])
        coarse = [n for n in samples if id(n.inputs[0]) in of_boxes]
        self.fine = [n for n in samples if id(n.inputs[0]) not in of_boxes]
        if not self.fine or len(coarse) != points:
            raise _other(samples[0] if samples else producer(predicted),
                         f"{len(self.fine)} maps and {len(coarse)} coarse masks are sampled for one prediction")  # fmt: skip
        self._coarse = coarse
        self.maps = [_map(node) for node in self.fine]
        self.sampled = tuple(str(node.outputs[0].name) for node in self.fine)
        self.points = 0

    @property
    def coarse(self) -> gs.Node:
        """What samples the coarse masks at the points of a round."""
        return self._coarse[0]

    def chosen(self) -> int:
        """How many points a TopK chose for this round."""
        topk = next((n for n in ancestors_before(self.coarse.inputs[1], {"TopK"}) if n.op == "TopK"), None)
        count = topk.outputs[1].shape[-1] if topk is not None and topk.outputs[1].shape else None
        if not isinstance(count, int):
            raise _other(self.coarse, "the points of this round are not chosen by a TopK of a fixed number")
        return count

    def fix_shapes(self) -> None:
        """What sampled features and coarse masks have fixed, which grids that are expanded hide from inference."""
        for node in self.fine:
            _, channels, rows, _ = node.outputs[0].shape
            node.outputs[0].shape = [1, channels, rows, self.points]
        for node in self._coarse:
            tensor = node.outputs[0]
            tensor.shape = [tensor.shape[0], node.inputs[0].shape[1], self.points, 1]


def _pooled_side(coarse: gs.Tensor, of_boxes: set[int]) -> int:
    """The side of the grid of features that coarse masks are predicted from: of the first map behind what was sampled."""
    maps = [n.outputs[0] for n in ancestors_before(coarse, {"GridSample"})
            if n.op == "Reshape" and n.outputs[0] is not coarse and id(n.outputs[0]) in of_boxes
            and len(n.outputs[0].shape or ()) == 4]  # fmt: skip
    if not maps:
        raise Refusal("the coarse masks are not predicted from a grid of features", coarse.inputs[0].name)
    return _square(maps[-1])


def _map(node: gs.Node) -> PointMap:
    """The map that a GridSample reads, and the pixels by which the points were divided."""
    source = back_through(node.inputs[0], RESHAPING | {"Gather"})
    dims(source, 4, "a map that is sampled at points")
    for division in ancestors_before(node.inputs[1], {"Div"}):
        extent = value(division.inputs[1]) if division.op == "Div" else None
        if extent is not None and extent.size == 2:
            width, height = (float(side) for side in np.asarray(extent).reshape(-1))
            return PointMap(source.name, width, height)
    raise _other(node, "these points are not divided by the pixels that the map covers")


def _step(read: _Read, logits: gs.Tensor, refined: gs.Tensor) -> PointStep:
    return PointStep(_square(refined), read.points, read.sampled, str(read.coarse.outputs[0].name), logits.name, refined.name)


def _square(grids: gs.Tensor) -> int:
    """The side of grids [D, C, S, S]."""
    shape = list(grids.shape or ())
    if len(shape) != 4 or not all(isinstance(d, int) for d in shape[1:]) or shape[2] != shape[3]:
        raise Refusal(f"a grid of mask logits has shape {shape}, expected [D, C, S, S]", grids.inputs[0].name)
    return int(shape[2])


def _other(node: gs.Node | None, why: str) -> Refusal:
    return Refusal("the masks are sampled from the feature maps point by point, and not as by PointRend's StandardPointHead: "
                   f"{why}; train with it or with detectron2's MaskRCNNConvUpsampleHead, or export the model without this head",
                   node.name if node is not None else "")  # fmt: skip
