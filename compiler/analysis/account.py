"""Accounts for every node between the image and the outputs: by which part of the detector it is explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis import parts
from onnxgraft.analysis.evidence import Evidence
from onnxgraft.analysis.point_parts import hold_grid, hold_step
from onnxgraft.analysis.pooling_part import hold_pooler
from onnxgraft.analysis.rows import hold_rows
from onnxgraft.analysis.semantic_head import hold_semantic
from onnxgraft.detector.spec import (
    RPN,
    BoxCoder,
    BoxHead,
    DenseHead,
    DetectorSpec,
    MaskHead,
    PointHead,
    Pooler,
    SemanticHead,
)  # fmt: skip
from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import ancestors, node_inputs

_DECIDING = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Clip", "Min", "Max", "Where", "TopK", "Round",
                       "Floor", "Ceil", "Relu", "Abs"})  # fmt: skip


@dataclass(frozen=True)
class Explained:
    """Nodes that a part of the spec explains.

    part: its name. how: "formula" where they gave detectron2's results on probes, "kept" where they are compiled as they are.
    nodes: their names. numbers: what was read there, in words.
    """

    part: str
    how: str
    nodes: tuple[str, ...]
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """What each node of a graph is there for.

    explained: in the order in which a picture passes them; no node twice. unexplained: names of nodes that no part explains and
    that no result depends on but through outputs of their own. as_it_stands: whether the graph was read without taking out
    what only hands on its input.
    """

    explained: tuple[Explained, ...]
    unexplained: tuple[str, ...] = ()
    as_it_stands: bool = True

    def rows(self, full: bool = False) -> list[tuple[str, str, str]]:
        """As a table: ("nodes", part, what explains how many of them); with `full` also the names."""
        words = {"formula": "held against detectron2's formula", "kept": "compiled as they are"}
        found = []
        for part in self.explained:
            numbers = f": {'; '.join(part.numbers)}" if part.numbers else ""
            found.append(("nodes", part.part, f"{len(part.nodes)}, {words[part.how]}{numbers}"))
            found += [("nodes", part.part, name) for name in part.nodes if full]
        if self.unexplained:
            some = self.unexplained if full else self.unexplained[:4]
            found.append(("nodes", "unexplained", f"{len(self.unexplained)}: {', '.join(some)}"))
        return found


def account(graph: Graph, spec: DetectorSpec) -> Account:
    """Hold every part of a detector against detectron2's formulas, and account for all nodes.

    Raises:
        Refusal: a part differs; or a node in it decides by a number that no part of the spec names, on something that no
            probe reached, so that nothing is known of what it does.
    """
    found = _Accounting(graph, spec)
    if spec.rpn is not None:
        found.proposals(spec.rpn)
    found.pooling()
    for name, nodes in hold_rows(graph, spec).items():
        found.parts.append(Explained(name, "kept", tuple(nodes)))
    if spec.box_head is not None and spec.box_pooler is not None:
        found.detections(spec.box_head, spec.box_pooler)
    if spec.dense is not None:
        found.dense(spec.dense)
    if spec.point_head is not None:
        found.points(spec.point_head)
    if spec.mask_head is not None and spec.box_head is not None and spec.outputs.masks_tensor:
        found.masks(spec.mask_head, spec.box_head)
    if spec.semantic is not None:
        found.semantic(spec.semantic)
    return _with_network(graph, spec, found.parts)


class _Accounting:
    """Parts of a detector, each held and with its nodes."""

    def __init__(self, graph: Graph, spec: DetectorSpec) -> None:
        self.parts: list[Explained] = []
        self._graph, self._spec = graph, spec
        self._size = spec.image.height, spec.image.width
        self._sides = (0.0, float(spec.image.width), float(spec.image.height))
        outputs = spec.outputs
        self._detected = [n for n in (outputs.boxes_tensor, outputs.scores_tensor, outputs.classes_tensor) if n]

    def _add(self, name: str, starts: Sequence[str], ends: Sequence[str], seen: Evidence, known: Sequence[float],
             *said: str) -> None:  # fmt: skip
        numbers = [*self._sides, *known]
        self.parts.append(_part(self._graph, name, starts, ends, seen, [*numbers, *(-n for n in numbers)], said))

    def proposals(self, rpn: RPN) -> None:
        seen = Evidence()
        alone = self._spec.outputs.scores_tensor if self._spec.box_head is None else None
        parts.hold_rpn(self._graph, rpn, self._size, alone, seen)
        maps = [name for level in rpn.levels for name in (level.logits_tensor, level.deltas_tensor)]
        self._add("proposals", maps, [rpn.proposals_tensor, *([alone] if alone else [])], seen,
                  [rpn.min_box_size, rpn.score_threshold, *_of_coder(rpn.coder)], f"{rpn.pre_nms_topk} of each level",
                  f"IoU {rpn.nms_threshold:.6g}", f"{rpn.post_nms_topk} kept",
                  f"clamp {rpn.coder.scale_clamp:.6g}")  # fmt: skip

    def pooling(self) -> None:
        for number, pooler in enumerate(self._spec.poolers(), start=1):
            seen, last = Evidence(), pooler.min_level + pooler.last_level
            hold_pooler(self._graph, pooler, self._size, seen)
            levels = [float(level) for level in range(max(last + pooler.unused_maps, 1) + 1)]
            self._add(f"pooling {number}", [pooler.boxes_tensor, *pooler.feature_tensors], [pooler.pooled_tensor], seen, levels,
                      f"levels {pooler.min_level} to {last}", f"{pooler.resolution}x{pooler.resolution}")  # fmt: skip

    def detections(self, head: BoxHead, pooler: Pooler) -> None:
        seen, spec = Evidence(), self._spec
        parts.hold_detections(self._graph, spec.outputs, head, spec.cascade, pooler, self._size, seen)
        starts = [head.logits_tensor, head.deltas_tensor, spec.box_poolers()[0].boxes_tensor]
        starts += [name for stage in spec.cascade for name in (stage.logits_tensor, stage.deltas_tensor)]
        known = [head.score_threshold, head.min_box_size or 0.0, *_of_coder(head.coder),
                 *(n for stage in spec.cascade for n in _of_coder(stage.coder))]  # fmt: skip
        self._add("detections", starts, self._detected, seen, known, f"score > {head.score_threshold:.6g}",
                  f"IoU {head.nms_threshold:.6g}", f"{head.detections_per_image} kept", f"clamp {head.coder.scale_clamp:.6g}")

    def dense(self, head: DenseHead) -> None:
        seen = Evidence()
        parts.hold_dense(self._graph, self._spec.outputs, head, self._size, seen)
        known = [head.score_threshold, *(_of_coder(head.coder) if head.coder else ()), *(float(v.topk) for v in head.levels)]
        self._add("detections", self._spec.dense_tensors(), self._detected, seen, known, f"score > {head.score_threshold:.6g}",
                  f"IoU {head.nms_threshold:.6g}", f"{head.detections_per_image} kept")  # fmt: skip

    def points(self, head: PointHead) -> None:
        outputs, seen = self._spec.outputs, Evidence()
        hold_grid(self._graph, outputs, head, self._size, seen)
        maps = [each.feature_tensor for each in (*head.maps, *head.point_maps)]
        starts = [*self._detected, *maps]
        self._add("grid of the coarse masks", starts, head.sampled_tensors, seen, [], f"{head.side}x{head.side}")
        before: list[str] = []
        for number, step in enumerate(head.steps):
            seen = Evidence()
            hold_step(self._graph, outputs, head, number, self._size, seen)
            ends = [*step.sampled_tensors, step.coarse_tensor, step.refined_tensor]
            begins = [*starts, head.coarse_tensor, step.logits_tensor, *before]
            said = f"{step.points} of {step.side}x{step.side}"
            self._add(f"points of round {number + 1}", begins, ends, seen, [], said)
            before = [step.refined_tensor]

    def masks(self, head: MaskHead, box_head: BoxHead) -> None:
        seen, outputs = Evidence(), self._spec.outputs
        parts.hold_masks(self._graph, outputs, head, box_head, seen)
        self._add("masks", [head.logits_tensor, *self._detected], [outputs.masks_tensor or ""], seen, [])

    def semantic(self, head: SemanticHead) -> None:
        outputs = self._spec.outputs
        end = self._graph.gs.outputs[0].name if outputs.boxes_tensor is None else outputs.semantic_tensor or ""
        hold_semantic(self._graph, head, end, self._size)
        behind = _between(self._graph, [head.logits_tensor], [end])
        self.parts.append(Explained("semantic logits enlarged", "formula", tuple(n.name for n in behind)))


def _of_coder(coder: BoxCoder) -> tuple[float, ...]:
    return (coder.scale_clamp, *coder.weights)


def _part(
    graph: Graph, name: str, starts: Sequence[str], ends: Sequence[str], seen: Evidence, known: Sequence[float],
    said: tuple[str, ...],
) -> Explained:  # fmt: skip
    nodes = _between(graph, starts, ends)
    for act in seen.unreached(known):
        raise Refusal(f"no probe of the {name} shows what this {act.node.op} does where it {act.what}, and no part of the "
                      "detector explains it", act.node.name)  # fmt: skip
    for node in nodes:
        for inner in _inner(node):
            if inner.op in _DECIDING:
                raise Refusal(f"a {inner.op} decides inside the branch of this {node.op}, and no part of the detector explains "
                              "it", node.name)  # fmt: skip
    return Explained(name, "formula", tuple(node.name for node in nodes), said)


def _inner(node: gs.Node) -> Iterable[gs.Node]:
    for held in node.attrs.values():
        if isinstance(held, gs.Graph):
            for inner in held.nodes:
                yield inner
                yield from _inner(inner)


def _between(graph: Graph, starts: Sequence[str], ends: Sequence[str]) -> list[gs.Node]:
    """The nodes between tensors, in the order of the graph."""
    stop = set(starts)
    seen: set[int] = set()
    waiting = [graph.tensor(name) for name in ends if name]
    while waiting:
        tensor = waiting.pop()
        if tensor.name in stop or not tensor.inputs or id(tensor.inputs[0]) in seen:
            continue
        seen.add(id(tensor.inputs[0]))
        waiting += node_inputs(tensor.inputs[0])
    return [node for node in graph.nodes if id(node) in seen]


def _with_network(graph: Graph, spec: DetectorSpec, found: Sequence[Explained]) -> Account:
    """The parts, each node counted once, with the image and the network in front of them."""
    image = {node.name for node in ancestors(graph.tensor(spec.image.normalized_tensor))}
    taken: set[str] = set()
    rest: list[Explained] = []
    for part in found:
        own = tuple(name for name in part.nodes if name not in taken)
        taken.update(own)
        rest.append(Explained(part.part, part.how, own, part.numbers))
    ends = [*spec.dense_tensors(), *spec.feature_tensors(), *([spec.semantic.logits_tensor] if spec.semantic else [])]
    network = {node.name for name in ends for node in ancestors(graph.tensor(name))} - image
    first = [
        Explained("image", "formula", tuple(n.name for n in graph.nodes if n.name in image),
                  (f"mean {_numbers(spec.image.mean)}", f"deviation {_numbers(spec.image.std)}")),
        Explained("network", "kept", tuple(n.name for n in graph.nodes if n.name in network - taken)),
    ]  # fmt: skip
    known = taken | image | network
    return Account((*first, *rest), tuple(n.name for n in graph.nodes if n.name not in known))


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in np.asarray(list(values)))


