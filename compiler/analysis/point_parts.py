"""The rounds of PointRend's mask head, held against its formulas (see measure.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxgraft.analysis import probes
from onnxgraft.analysis.evidence import Evidence
from onnxgraft.analysis.measure import Probe, hold
from onnxgraft.detector import points
from onnxgraft.detector.spec import Outputs, PointHead, PointMap
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import dims

Size = tuple[int, int]
_BOXES = 6
_LIMIT = 2e-3  # of features that are read between cells of noise


def hold_grid(graph: Graph, outputs: Outputs, head: PointHead, image: Size, evidence: Evidence | None = None) -> None:
    """Hold where the features of the coarse masks are sampled.

    Raises:
        Refusal: elsewhere than on the centres of a regular grid in each box.
    """
    made = _Made(graph, outputs, head, image, 21)
    grid = np.broadcast_to(points.regular_points(head.side), (_BOXES, head.side**2, 2))
    expected = [made.sampled(each, grid) for each in head.maps]
    wanted = [graph.tensor(name) for name in head.sampled_tensors]
    probe = made.feeds, lambda found: _apart(found, expected, "features of the coarse masks")
    hold(graph, wanted, [probe], "the features of the coarse masks", evidence)


def hold_step(
    graph: Graph, outputs: Outputs, head: PointHead, number: int, image: Size, evidence: Evidence | None = None
) -> None:
    """Hold one round: which points it chooses, what is sampled there, and where the logits go.

    Args:
        number: of the round, the first one's 0.

    Raises:
        Refusal: it differs from PointRendMaskHead._subdivision_inference.
    """
    step = head.steps[number]
    wanted = [graph.tensor(n) for n in (*step.sampled_tensors, step.coarse_tensor, step.refined_tensor)]
    hold(graph, wanted, _step_probes(graph, outputs, head, number, image), f"the points of round {number + 1}", evidence)


def _step_probes(graph: Graph, outputs: Outputs, head: PointHead, number: int, image: Size) -> Iterator[Probe]:
    step = head.steps[number]
    made = _Made(graph, outputs, head, image, 22 + number)
    channels = int(graph.tensor(step.refined_tensor).shape[1])
    coarse = made.rng.normal(0, 3, (_BOXES, *(int(d) for d in graph.tensor(head.coarse_tensor).shape[1:])))
    logits = made.rng.normal(0, 3, (_BOXES, channels, step.points)).astype(np.float32)
    feeds = {**made.feeds, head.coarse_tensor: coarse.astype(np.float32), step.logits_tensor: logits}
    if number:
        before = head.steps[number - 1]
        grids = probes.exact_logits(made.rng, (_BOXES, channels, before.side, before.side))
        feeds[before.refined_tensor] = grids
        own = made.classes if channels > 1 else np.zeros(_BOXES, np.int64)
        larger = points.doubled(grids).reshape(_BOXES, channels, -1)
        places = points.least_certain(larger[np.arange(_BOXES), own], step.points)
        chosen = points.points_of_grid(places, step.side)
        np.put_along_axis(larger, places[:, None], logits, 2)
        refined = larger
    else:
        chosen = np.broadcast_to(points.regular_points(step.side), (_BOXES, step.points, 2))
        refined = logits
    expected = [made.sampled(each, chosen) for each in head.point_maps]
    expected.append(np.stack([points.sample(c, p) for c, p in zip(coarse, chosen, strict=True)])[..., None])
    expected.append(refined.reshape(_BOXES, channels, step.side, step.side))
    yield feeds, lambda found: _apart(found, expected, "features, coarse logits or logits of points")


class _Made:
    """Boxes of all sizes, classes and feature maps of noise, as a graph's tensors hold them."""

    def __init__(self, graph: Graph, outputs: Outputs, head: PointHead, image: Size, seed: int) -> None:
        self.rng = probes.random(seed)
        height, width = image
        self.boxes = probes.boxes(self.rng, _BOXES, image)
        self.boxes[:3] = [[0, 0, width, height], [0, 0, 1.5, 2.5], [width - 2, height - 1, width, height]]  # read beyond a map
        self.boxes[3:, 2:] = np.maximum(self.boxes[3:, 2:], self.boxes[3:, :2] + 1)
        classes = graph.tensor(head.steps[-1].refined_tensor).shape[1]
        self.classes = self.rng.integers(0, int(classes), _BOXES)
        self.feeds = {outputs.boxes_tensor or "": self.boxes, outputs.classes_tensor or "": self.classes}
        for each in {m.feature_tensor: m for m in (*head.maps, *head.point_maps)}:
            self.feeds[each] = probes.noise_map(self.rng, dims(graph.tensor(each), 4, "a map that is sampled"))

    def sampled(self, source: PointMap, chosen: np.ndarray) -> np.ndarray:
        """[1, C, D, P]: features at points [D, P, 2] of the boxes."""
        places = points.points_in_image(chosen, self.boxes) / [source.width, source.height]
        flat = points.sample(self.feeds[source.feature_tensor][0], places.reshape(-1, 2))
        return flat.reshape(1, -1, *chosen.shape[:2])


def _apart(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], what: str) -> str | None:
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            return f"{what} of shape {list(one.shape)}"
        error = float(np.abs(one - other).max(initial=0.0))
        if not error < _LIMIT:
            return f"{what} are others, by up to {error:.3g}"
    return None
