"""Refines the masks of all images' detections at points, each read from its own image's feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxgraft.detector.outputs import Role
from onnxgraft.detector.points import regular_points
from onnxgraft.detector.spec import DetectorSpec, PointMap, PointStep
from onnxgraft.detector.spec import PointHead as Points
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.ir.value import Value, concat, constant
from onnxgraft.passes.emit.rows import largest, of_classes
from onnxgraft.pipeline.base import DetectorPass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTIONS, Fact


@dataclass(frozen=True, kw_only=True)
class PointHead(DetectorPass[Points]):
    """Sample PointRend's features from each image's own maps, and refine the mask of each detection's class alone.

    The export reads the features of its one image, and refines the masks of every class at the points where that of the
    detection's class is least certain: with 80 classes, 1.6 GB for 100 masks of 224x224 of which one in 80 is given out.
    Interpolation and the choice of points do not mix classes, so each point's logit is picked before. Legal when (1) the
    detections are fixed in number. A detector whose masks are not sampled at points is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (DETECTIONS,)
    noun: ClassVar[str] = "point head"

    @staticmethod
    def part(spec: DetectorSpec) -> Points | None:
        return spec.point_head

    def rewrite(self, graph: Graph, ctx: Context, head: Points) -> None:
        made = _Points(graph, ctx, head)
        made.sample("coarse", made.regular(head.side), head.maps, head.sampled_tensors)
        grid: Value | None = None
        for number, step in enumerate(head.steps, start=1):
            grid = made.refined(f"round{number}", step, grid)
            made.hand_over(step.refined_tensor, grid)
            ctx.count("points predicted", made.boxes * step.points)
        graph.cleanup()
        infer_shapes(graph)


class _Points:
    """Emits the nodes of the rounds, for the boxes [N, D, 4] of all detections.

    Attributes:
        boxes: N * D, how many there are.
    """

    def __init__(self, graph: Graph, ctx: Context, head: Points) -> None:
        self.graph, self.ctx, self.head = graph, ctx, head
        results = ctx.values.results
        self._boxes, self._classes = graph.tensor(results[Role.BOXES]), graph.tensor(results[Role.CLASSES])
        ctx.replaced[ctx.spec().outputs.boxes_tensor or ""] = self._boxes.name
        self.images, self.detections = ctx.batch, int(self._classes.shape[1])
        self.boxes = self.images * self.detections

    def regular(self, side: int) -> np.ndarray:
        """float32 [1, side * side, 2]: the centres of a grid's cells, for boxes of 0 to 1."""
        return regular_points(side)[None].astype(np.float32)

    def sample(self, part: str, points: Value | np.ndarray, maps: Sequence[PointMap], old: Sequence[str]) -> None:
        """Give the export's heads the features at points [N * D, P, 2], or [1, P, 2] for all boxes, as [1, C, N * D, P]."""
        b = Builder(self.graph, f"point_head/{part}", [node.name for name in old for node in self.graph.tensor(name).inputs])
        flat = b.of(self._boxes).reshape(self.boxes, 1, 4, hint="each_box").named("boxes")
        low, high = flat[..., 0:2].named("low"), flat[..., 2:4].named("high")
        inside = points if isinstance(points, Value) else b.of(b.const("points", points))
        placed = ((inside * (high - low).named("size")).named("within_box") + low).named("within_image")
        count = int(inside.shape[1])
        for source, name in zip(maps, old, strict=True):
            share = (placed / constant("covered", np.array([source.width, source.height], np.float32))).named("within_map")
            grid = _outwards(share).reshape(self.images, self.detections, count, 2, hint="per_image").named("grid")
            features = b.of(self.ctx.values.point_maps.get(source.feature_tensor, source.feature_tensor))
            found = _sampled(features, grid)
            if self.images > 1:
                found = found.transpose(1, 0, 2, 3).named("sampled_by_channel")
                found = found.reshape(1, -1, self.boxes, count, hint="all_boxes").named("sampled_of_all")
            self.hand_over(name, found)

    def refined(self, part: str, step: PointStep, before: Value | None) -> Value:
        """The grid [N * D, 1, side, side] of logits of each detection's class after a round."""
        b = Builder(self.graph, f"point_head/{part}", [n.name for n in self.graph.tensor(step.refined_tensor).inputs])
        side, places, larger = step.side, None, None
        if before is None:
            points: Value | np.ndarray = self.regular(side)
        else:
            larger, places = self._least_certain(b.of(before.handle), step)
            points = self._of_grid(places, side)
        self.sample(part, points, self.head.point_maps, step.sampled_tensors)
        coarse = b.of(self.head.coarse_tensor)
        inside = points if isinstance(points, Value) else b.of(b.const("points", np.repeat(points, self.boxes, 0)))
        self.hand_over(step.coarse_tensor, _sampled(coarse, _outwards(inside.unsqueeze(2, hint="row").named("points"))))
        logits = b.of(step.logits_tensor)
        own = self._of_class(b, logits, step)
        if larger is None or places is None:
            return own.reshape(self.boxes, 1, side, side, hint="grid").named("refined")
        flat = larger.op("ScatterElements", places, own, axis=1).named("refined_flat")
        return flat.reshape(self.boxes, 1, side, side, hint="grid").named("refined")

    def _least_certain(self, before: Value, step: PointStep) -> tuple[Value, Value]:
        """The grid twice as fine, flat [N * D, side * side], and places int64 [N * D, P] of its smallest magnitudes."""
        scales = constant("twice", np.array([1, 1, 2, 2], np.float32))
        larger = before.op("Resize", constant("roi", np.zeros(0, np.float32)), scales, mode="linear",
                           coordinate_transformation_mode="half_pixel").named("enlarged")  # fmt: skip
        flat = larger.reshape(self.boxes, step.side**2, hint="flat").named("enlarged_flat")
        uncertain = (-flat.abs().named("magnitude")).named("uncertainty")
        return flat, largest(uncertain, step.points, ("least_certain", "places"))[1]

    def _of_grid(self, places: Value, side: int) -> Value:
        """get_uncertain_point_coords_on_grid: [N * D, P, 2], in its order of operations."""
        step = np.float32(1.0 / side)
        parts = []
        for hint, number in (("column", places % constant("side", side)), ("row", places / constant("side", side))):
            cell = number.named(hint).cast(np.float32).named(f"{hint}_number")
            place = ((cell * constant("step", step)).named(f"{hint}_start") + constant("half", np.float32(1.0 / side / 2.0)))
            parts.append(place.named(f"{hint}_centre").unsqueeze(2, hint="last").named(f"{hint}_last"))
        return concat(*parts, axis=2).named("points")

    def _of_class(self, b: Builder, logits: Value, step: PointStep) -> Value:
        """[N * D, P] of the logits [N * D, C, P]: those of each detection's class."""
        channels = self.ctx.spec().num_classes or 1
        mask_head = self.ctx.spec().mask_head
        if channels == 1 or (mask_head is not None and mask_head.class_agnostic):
            return logits.reshape(self.boxes, step.points, hint="one_class").named("of_class")
        return of_classes(b, logits, self._classes, channels, step.points)

    def hand_over(self, name: str, new: Value) -> None:
        self.graph.replace(self.graph.tensor(name), new.handle)
        self.ctx.replaced[name] = new.name


def _outwards(points: Value) -> Value:
    """Of 0 to 1, as point_sample takes them, -1 to 1, as GridSample does."""
    return ((points * constant("two", 2.0)).named("doubled") - constant("one", 1.0)).named("from_centre")


def _sampled(maps: Value, grid: Value) -> Value:
    return maps.op("GridSample", grid, mode="bilinear", padding_mode="zeros", align_corners=0).named("sampled")
