"""The rounds of a head that samples features at points, each cut out of the file's graph and of the compiled one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxgraft.analysis.probes import exact_logits
from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import PointHead, PointMap
from onnxgraft.errors import Refusal
from onnxgraft.proof import parts
from onnxgraft.proof.compare import Outcome, compare_values
from onnxgraft.proof.cut import Arrays
from onnxgraft.proof.map_probes import at_once, feature_map, pooled_boxes
from onnxgraft.proof.parts import Part, Port
from onnxgraft.proof.probes import Probe, rng_of
from onnxgraft.proof.sides import Sides, with_rows

_LIMIT = 1e-3


class Sampled(Part):
    """Ends in features at points ("features0", ...: [1, C, D, P] in the file, [1, C, N * D, P] in the build), in coarse logits
    there ("coarse": [D, K, P, 1]) and in a grid of logits ("grid": [D, K | 1, S, S] in the file, [N * D, 1, S, S] of each row's
    class in the build)."""

    def compare(self, probe: Probe, file: Arrays, build: Arrays, image: int, batch: int) -> Outcome:
        outcome = Outcome()
        for role, expected in file.items():
            found = build[role]
            if role.startswith("features"):
                expected, found = expected[0].swapaxes(0, 1), found[0].swapaxes(0, 1)
            elif role == "grid" and expected.shape[1] > 1:
                expected = expected[np.arange(len(expected)), probe.feeds["classes"]][:, None]
            each = len(found) // batch
            outcome = compare_values(expected, found[image * each :][: len(expected)], _LIMIT)
            if outcome.difference is not None:
                break
        return outcome


def point_parts(sides: Sides, head: PointHead) -> dict[str, Callable[[], Part]]:
    """What makes the parts, by their names, in the order in which a picture passes them."""
    found: dict[str, Callable[[], Part]] = {"grid of the coarse masks": partial(_grid, sides, head)}
    for number in range(len(head.steps)):
        name = f"points of round {number + 1}"
        found[name] = partial(_round, sides, head, number, name)
    return found


def _ports(sides: Sides, maps: Sequence[PointMap]) -> list[Port]:
    outputs, results = sides.spec.outputs, sides.ctx.values.results
    boxes = sides.ctx.current(outputs.boxes_tensor or "")
    return [
        sides.site("boxes", boxes, parts.per_image, outputs.boxes_tensor),
        sides.site("classes", results[Role.CLASSES], parts.classes, outputs.classes_tensor),
        *(sides.port(f"map{i}", each.feature_tensor, parts.maps) for i, each in enumerate(maps)),
        *sides.whole_canvas(),
    ]


def _grid(sides: Sides, head: PointHead) -> Part:
    ends = {f"features{i}": name for i, name in enumerate(head.sampled_tensors)}
    made = {role: sides.ctx.current(name) for role, name in ends.items()}
    rows = sides.shape(sides.ctx.values.results[Role.CLASSES])[1]
    feed = partial(_boxes_and_maps, sides, head.maps, rows)
    return Sampled("grid of the coarse masks", sides.graphs, _ports(sides, head.maps), (ends, made), feed)


def _round(sides: Sides, head: PointHead, number: int, name: str) -> Part:
    step = head.steps[number]
    rows = sides.shape(sides.ctx.values.results[Role.CLASSES])[1]
    every = sides.ctx.batch * rows
    ports = _ports(sides, head.point_maps)
    ports += [with_rows(sides.port("coarse", head.coarse_tensor, parts.rows), every),
              with_rows(sides.port("logits", step.logits_tensor, parts.rows), every)]  # fmt: skip
    if number:
        before = head.steps[number - 1].refined_tensor
        picked = sides.site("picked", sides.ctx.current(before), parts.rows)
        ports += [Port("grid", before, None, parts.rows), with_rows(picked, every)]
    ends = {f"features{i}": tensor for i, tensor in enumerate(step.sampled_tensors)}
    ends |= {"coarse": step.coarse_tensor, "grid": step.refined_tensor}
    made = {role: sides.ctx.current(tensor) for role, tensor in ends.items()}
    return Sampled(name, sides.graphs, ports, (ends, made), partial(_round_probes, sides, head, number, rows))


def _boxes_and_maps(sides: Sides, maps: Sequence[PointMap], rows: int) -> Iterator[Probe]:
    rng, classes = rng_of(8), sides.spec.num_classes or 1
    feeds: dict[str, NDArray[np.generic]] = {
        f"map{i}": feature_map(rng, (1, *sides.shape(sides.now(each.feature_tensor))[1:])) for i, each in enumerate(maps)
    }
    boxes = pooled_boxes(sides.spec, rng)
    for start in range(0, len(boxes), rows):
        chosen = boxes[start : start + rows].astype(np.float32)
        yield Probe("boxes of all sizes", {**feeds, "boxes": chosen, "classes": rng.integers(0, classes, len(chosen))})


def _round_probes(sides: Sides, head: PointHead, number: int, rows: int) -> Iterator[Probe]:
    """Coarse masks, logits of points and the grid of the round before, that differ in every cell."""
    step, rng = head.steps[number], rng_of(9)
    of_coarse = sides.shape(sides.now(head.coarse_tensor))[1:]
    if min(of_coarse, default=-1) < 0:
        raise Refusal("these coarse masks cannot be proved: the graph does not say their size", head.coarse_tensor)
    channels = of_coarse[0]
    for probe in _boxes_and_maps(sides, head.point_maps, at_once(rows, channels * step.side**2)):
        n, classes = len(probe.feeds["boxes"]), probe.feeds["classes"]
        feeds = dict(probe.feeds)
        feeds["coarse"] = rng.normal(0, 3, (n, *of_coarse)).astype(np.float32)
        feeds["logits"] = rng.normal(0, 3, (n, channels, step.points)).astype(np.float32)
        if number:
            side = head.steps[number - 1].side
            feeds["grid"] = exact_logits(rng, (n, channels, side, side))
            feeds["picked"] = feeds["grid"][np.arange(n), classes if channels > 1 else 0][:, None]
        yield Probe(probe.name, feeds)
