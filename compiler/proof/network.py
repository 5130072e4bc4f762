"""The network between the parts: node by node the file's own, weights included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.outputs import Role
from onnxgraft.ir.weights import weight_of
from onnxgraft.proof.sides import Sides


@dataclass(frozen=True)
class Network:
    """nodes: how many were compared. differs: the first of the file's nodes whose place another took, with the pass that
    made that; None when all are the same."""

    nodes: int
    differs: str | None = None


def compare_network(sides: Sides, normalized: str) -> Network:
    """Compare what lies between the normalised image (`normalized` in the file's graph), pooled features and all tensors of
    the spec at which parts begin. A batch may write the first dimension of a Reshape anew."""
    spec, ctx = sides.spec, sides.ctx
    starts = {normalized: ctx.values.normalized}
    read = [*(pooler.pooled_tensor for pooler in spec.poolers()), *(spec.point_head.read() if spec.point_head else ())]
    starts |= {name: ctx.current(name) for name in read}
    heads = [spec.box_head.scores_tensor, spec.box_head.deltas_tensor] if spec.box_head else []
    heads += [name for stage in spec.cascade for name in (stage.scores_tensor, stage.deltas_tensor)]
    masks = None if spec.point_head else spec.mask_head
    heads += [head.logits_tensor for head in (masks, spec.keypoint_head, spec.semantic) if head is not None]
    heads += spec.point_head.predicted() if spec.point_head else []
    ends = dict.fromkeys([*spec.dense_tensors(), *spec.feature_tensors(), *heads])
    return _Comparison(sides, starts).run(ends)


class _Comparison:
    def __init__(self, sides: Sides, starts: Mapping[str, str]) -> None:
        self._sides = sides
        self._starts = starts
        self._seen: dict[int, gs.Tensor] = {}
        self._file = _tensors(sides.file.nodes)
        self._build = _tensors(sides.build.nodes)
        self._nodes: set[int] = set()

    def run(self, ends: Iterable[str]) -> Network:
        for name in ends:
            if name in self._starts:
                continue
            build = self._build.get(self._sides.now(name))
            differs = f"{name!r} is gone" if build is None else self._from(self._file[name], build)
            if differs is not None:
                return Network(len(self._nodes), differs)
        return Network(len(self._nodes))

    def _from(self, file: gs.Tensor, build: gs.Tensor) -> str | None:
        stack = [(file, build)]
        while stack:
            mine, other = stack.pop()
            if mine.name in self._starts or id(mine) in self._seen:
                expected = self._starts.get(mine.name) if mine.name in self._starts else self._seen[id(mine)].name
                if other.name != expected:
                    return self._tell(mine, other)
                continue
            self._seen[id(mine)] = other
            if isinstance(mine, gs.Constant) or isinstance(other, gs.Constant):
                if not (isinstance(mine, gs.Constant) and isinstance(other, gs.Constant) and _same_values(mine, other)):
                    return self._tell(mine, other)
                continue
            if not mine.inputs or not other.inputs:
                if mine.name != other.name:
                    return self._tell(mine, other)
                continue
            one, two = mine.inputs[0], other.inputs[0]
            if not _same_node(one, two, mine, other):
                return self._tell(mine, other)
            self._nodes.add(id(one))
            if one.op == "Shape" and self._number_boxes(one.inputs[0], two.inputs[0]):
                continue
            pairs = list(zip(one.inputs, two.inputs, strict=True))
            if one.op == "Reshape" and self._sides.ctx.batch > 1 and _same_but_batch(*pairs[1]):
                pairs = pairs[:1]
            stack += pairs
        return None

    def _number_boxes(self, mine: gs.Tensor, other: gs.Tensor) -> bool:
        """Whether these are the boxes of the file's detections and of all detections of the build, whose number is read."""
        spec, results = self._sides.spec, self._sides.ctx.values.results
        if spec.point_head is None or mine.name != spec.outputs.boxes_tensor:
            return False
        images, detections = self._sides.shape(results[Role.CLASSES])
        return list(other.shape or ()) == [images * detections, 4]

    def _tell(self, mine: gs.Tensor, other: gs.Tensor) -> str:
        name = mine.inputs[0].name if mine.inputs else mine.name
        maker = other.inputs[0].name if other.inputs else other.name
        origin = self._sides.build.origins.get(maker)
        return f"{name!r} became {maker!r}" + (f" by {origin.pass_name}" if origin else "")


def _tensors(nodes: Iterable[gs.Node]) -> dict[str, gs.Tensor]:
    return {t.name: t for node in nodes for t in node.outputs}


def _same_node(one: gs.Node, two: gs.Node, mine: gs.Tensor, other: gs.Tensor) -> bool:
    if (one.op, one.domain, len(one.inputs)) != (two.op, two.domain, len(two.inputs)):
        return False
    if [t is mine for t in one.outputs] != [t is other for t in two.outputs]:
        return False
    return _attributes(one) == _attributes(two)


def _attributes(node: gs.Node) -> dict[str, str]:
    return {
        key: str(value.tolist() if isinstance(value, np.ndarray) else id(value) if isinstance(value, gs.Graph) else value)
        for key, value in node.attrs.items()
    }


def _same_values(one: gs.Constant, two: gs.Constant) -> bool:
    first, second = weight_of(one), weight_of(two)
    if first is not None and second is not None and first == second:
        return True
    if tuple(one.shape) != tuple(two.shape) or one.dtype != two.dtype:
        return False
    return bool(np.array_equal(np.asarray(one.values), np.asarray(two.values)))


def _same_but_batch(one: gs.Tensor, two: gs.Tensor) -> bool:
    """Whether two shapes are the same but for the first dimension, which was 1 and now keeps that of the input."""
    if not isinstance(one, gs.Constant) or not isinstance(two, gs.Constant):
        return False
    a, b = np.asarray(one.values).tolist(), np.asarray(two.values).tolist()
    return len(a) == len(b) > 0 and a[0] == 1 and b[0] == 0 and a[1:] == b[1:]
