"""Local rewrites: a pattern that looks like its maths, and where a graph holds it.

    x = Var("x")
    silu = Op("Mul", x, Op("Sigmoid", x))

`match` finds the pattern that ends in a node, whatever order commutative operators take their operands in, and says how
far the closest attempt came when there is none. It looks like unification: a match in progress is a list of goals (this
part of the pattern is that tensor) and what is bound so far; where an operand may stand in several places, the other
orders wait on a stack, and the latest is taken up again when a goal fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.ops import COMMUTATIVE
from onnxgraft.ir.traverse import producer


class Var:
    """Any value; the same variable stands for the same tensor everywhere in a pattern."""

    def __init__(self, name: str) -> None:
        self.name = name


class Const(Var):
    """Any constant."""


class Op:
    """A node with one output: operator, inputs, and attributes that must be equal. `name` makes it reachable in a Match."""

    def __init__(self, kind: str, *inputs: Var | Op, name: str = "", **attrs: object) -> None:
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
        """The values of a constant, with its own shape and dtype."""
        return np.asarray(self.tensors[variable].values)

    def reject(self, reason: str, node: gs.Node | None = None) -> Reject:
        """For `check`: this match does not qualify."""
        return Reject(reason, (node or self.root).name, len(self.nodes))

    def _copy(self) -> Match:
        return Match(self.root, list(self.nodes), dict(self.named), dict(self.tensors))


@dataclass(frozen=True)
class _Goal:
    """This part of the pattern is to be that tensor, which `reader` reads; the root is to be a node that nobody reads."""

    wanted: Var | Op
    tensor: gs.Tensor | None
    reader: gs.Node


@dataclass
class _Partial:
    """A match in progress: what is bound, and what is still to hold, the next goal last."""

    found: Match
    goals: list[_Goal]


def match(pattern: Op, node: gs.Node) -> Match | Reject:
    """The match of a pattern that ends in `node`, or why there is none: the reason of the attempt that came furthest.

    Values inside the pattern that other nodes read rule a match out, because they cannot go away.
    """
    waiting = [_Partial(Match(node), [_Goal(pattern, None, node)])]
    best: Reject | None = None
    while waiting:
        partial = waiting.pop()
        missed = _advance(partial, waiting)
        if not partial.goals and missed is None:
            missed = _read_elsewhere(partial.found)
            if missed is None:
                return partial.found
        if missed is not None and (best is None or missed.depth > best.depth):
            best = missed
    assert best is not None
    return best


def _advance(partial: _Partial, waiting: list[_Partial]) -> Reject | None:
    """Meet goals until none is left, one fails (the reason is returned), or several orders are to be tried."""
    found = partial.found
    while partial.goals:
        goal = partial.goals.pop()
        if not isinstance(goal.wanted, Op):
            missed = _bind(goal, found)
            if missed is not None:
                return missed
            continue
        node = goal.reader if goal.tensor is None else producer(goal.tensor)
        if node is None:
            assert goal.tensor is not None
            what = "a constant" if isinstance(goal.tensor, gs.Constant) else "an input of the graph"
            reason = f"reads {goal.tensor.name!r}, {what}, where {goal.wanted.kind} is wanted"
            return Reject(reason, goal.reader.name, len(found.nodes))
        missed = _enter(goal.wanted, node, found)
        if missed is not None:
            return missed
        orders = _orders(goal.wanted, node)
        for order in reversed(orders[1:]):
            waiting.append(_Partial(found._copy(), [*partial.goals, *order]))
        partial.goals += orders[0]
    return None


def _bind(goal: _Goal, found: Match) -> Reject | None:
    """Let a variable stand for a tensor, unless it stands for another."""
    name, tensor, depth = goal.wanted.name, goal.tensor, len(found.nodes)
    assert tensor is not None
    if isinstance(goal.wanted, Const) and not isinstance(tensor, gs.Constant):
        return Reject(f"{name!r} is no constant but {tensor.name!r}", goal.reader.name, depth)
    known = found.tensors.setdefault(name, tensor)
    if known is not tensor:
        return Reject(f"{name!r} would be both {known.name!r} and {tensor.name!r}", goal.reader.name, depth)
    return None


def _enter(wanted: Op, node: gs.Node, found: Match) -> Reject | None:
    """Let an Op stand for a node: operator, attributes and number of inputs are those of the pattern."""
    depth = len(found.nodes)
    if node.op != wanted.kind:
        return Reject(f"is {node.op}, not {wanted.kind}", node.name, depth)
    for key, value in wanted.attrs.items():
        if node.attrs.get(key) != value:
            return Reject(f"{key} is {node.attrs.get(key)!r}, not {value!r}", node.name, depth)
    inputs = _inputs(node)
    if len(inputs) != len(wanted.inputs):
        return Reject(f"has {len(inputs)} inputs, not {len(wanted.inputs)}", node.name, depth)
    found.nodes.append(node)
    if wanted.name:
        found.named[wanted.name] = node
    return None


def _orders(wanted: Op, node: gs.Node) -> list[list[_Goal]]:
    """The goals for the inputs of a node in every order to be tried, the first input's goal last."""
    inputs = _inputs(node)
    return [
        [_Goal(part, tensor, node) for part, tensor in zip(wanted.inputs, order, strict=True)][::-1]
        for order in (permutations(inputs) if node.op in COMMUTATIVE else [inputs])
    ]


def _inputs(node: gs.Node) -> list[gs.Tensor]:
    """The inputs that are given: one left out has no name."""
    return [t for t in node.inputs if t.name or isinstance(t, gs.Constant)]


def _read_elsewhere(found: Match) -> Reject | None:
    """A matched value inside the pattern that others read cannot go away."""
    inside = {id(node) for node in found.nodes}
    for node in found.nodes[1:]:
        for tensor in node.outputs:
            readers = [reader for reader in tensor.outputs if id(reader) not in inside]
            if readers:
                return Reject(f"its value is also read by {readers[0].name!r}", node.name, len(found.nodes))
    return None
