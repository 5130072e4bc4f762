"""Local rewrites: a pattern that looks like its maths, a check with reasons, and a rewrite that only builds.

    x = Var("x")
    silu = Op("Mul", x, Op("Sigmoid", x))

`Rewrite` is a pass made of one rule. The engine finds the matches, refuses those whose inner values are read by others,
commits what the rule built, and says why the closest candidate did not match when none did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.graph import Graph

_COMMUTATIVE = {"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum"}


class Var:
    """Any value; the same variable stands for the same tensor everywhere in a pattern."""

    def __init__(self, name: str) -> None:
        self.name = name


class Const(Var):
    """Any constant."""


class Op:
    """A node with one output: operator, inputs, and attributes that must be equal. `name` makes it reachable in a Match."""

    def __init__(self, kind: str, *inputs: Var | Op, name: str = "", **attrs: Any) -> None:
        self.kind, self.inputs, self.name, self.attrs = kind, inputs, name, attrs


@dataclass(frozen=True)
class Reject:
    """Why a place does not match: the reason and the node; `depth` is how many nodes of the pattern did match."""

    reason: str
    node: str
    depth: int = 0

    def __str__(self) -> str:
        return f"{self.reason} (node {self.node!r})"


@dataclass
class Match:
    """Where a pattern was found.

    Attributes:
        root: the node that the pattern's outermost Op matched.
        nodes: all matched nodes, the root first.
        named: nodes of the Ops that have a name.
        tensors: tensors of the variables, by name.
    """

    root: gs.Node
    nodes: list[gs.Node] = field(default_factory=list)
    named: dict[str, gs.Node] = field(default_factory=dict)
    tensors: dict[str, gs.Tensor] = field(default_factory=dict)

    def __getitem__(self, variable: str) -> gs.Tensor:
        return self.tensors[variable]

    def value(self, variable: str) -> np.ndarray:
        """The values of a constant."""
        return np.asarray(self.tensors[variable].values)

    def reject(self, reason: str, node: gs.Node | None = None) -> Reject:
        """For `check`: this match does not qualify."""
        return Reject(reason, (node or self.root).name, len(self.nodes))

    def _copy(self) -> Match:
        return Match(self.root, list(self.nodes), dict(self.named), dict(self.tensors))


def match(pattern: Op, node: gs.Node) -> Match | Reject:
    """The match of a pattern that ends in `node`, or why there is none."""
    found = _match_op(pattern, node, Match(node))
    return found if isinstance(found, Reject) else (_read_elsewhere(found) or found)


def _match_op(pattern: Op, node: gs.Node, so_far: Match) -> Match | Reject:
    depth = len(so_far.nodes)
    if node.op != pattern.kind:
        return Reject(f"is {node.op}, not {pattern.kind}", node.name, depth)
    for key, wanted in pattern.attrs.items():
        if node.attrs.get(key) != wanted:
            return Reject(f"{key} is {node.attrs.get(key)!r}, not {wanted!r}", node.name, depth)
    inputs = [t for t in node.inputs if t.name or isinstance(t, gs.Constant)]
    if len(inputs) != len(pattern.inputs):
        return Reject(f"has {len(inputs)} inputs, not {len(pattern.inputs)}", node.name, depth)
    base = so_far._copy()
    base.nodes.append(node)
    if pattern.name:
        base.named[pattern.name] = node
    best: Reject | None = None
    for order in permutations(inputs) if node.op in _COMMUTATIVE else [inputs]:
        result = _match_inputs(pattern, order, base, node)
        if isinstance(result, Match):
            return result
        best = result if best is None or result.depth > best.depth else best
    assert best is not None
    return best


def _match_inputs(pattern: Op, inputs: Any, base: Match, node: gs.Node) -> Match | Reject:
    current: Match | Reject = base._copy()
    for wanted, tensor in zip(pattern.inputs, inputs, strict=True):
        assert isinstance(current, Match)
        current = _match_value(wanted, tensor, current, node)
        if isinstance(current, Reject):
            return current
    return current


def _match_value(wanted: Var | Op, tensor: gs.Tensor, so_far: Match, reader: gs.Node) -> Match | Reject:
    depth = len(so_far.nodes)
    if isinstance(wanted, Op):
        if not tensor.inputs:
            what = "a constant" if isinstance(tensor, gs.Constant) else "an input of the graph"
            return Reject(f"reads {tensor.name!r}, {what}, where {wanted.kind} is wanted", reader.name, depth)
        return _match_op(wanted, tensor.inputs[0], so_far)
    if isinstance(wanted, Const) and not isinstance(tensor, gs.Constant):
        return Reject(f"{wanted.name!r} is no constant but {tensor.name!r}", reader.name, depth)
    known = so_far.tensors.get(wanted.name)
    if known is not None and known is not tensor:
        return Reject(f"{wanted.name!r} would be both {known.name!r} and {tensor.name!r}", reader.name, depth)
    so_far.tensors[wanted.name] = tensor
    return so_far


def _read_elsewhere(found: Match) -> Reject | None:
    """A matched value inside the pattern that others read cannot go away."""
    inside = {id(node) for node in found.nodes}
    for node in found.nodes[1:]:
        for tensor in node.outputs:
            readers = [reader for reader in tensor.outputs if id(reader) not in inside]
            if readers:
                return Reject(f"its value is also read by {readers[0].name!r}", node.name, len(found.nodes))
    return None


def misses(graph: Graph, pattern: Op) -> Iterator[Reject]:
    """Every place where a part of the pattern matched, closest first: for asking why it does not fire."""
    found = [m for m in (match(pattern, node) for node in graph.nodes) if isinstance(m, Reject) and m.depth]
    yield from sorted(found, key=lambda miss: -miss.depth)
