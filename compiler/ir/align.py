"""Finds which node of one graph is which of another, when names, order and some nodes differ."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Hashable, Sequence

import onnx_graphsurgeon as gs

from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import attributes_text, body_text
from onnxgraft.ir.traverse import node_inputs, tensors
from onnxgraft.ir.value_text import type_text, value_text


def align(a: Graph, b: Graph) -> dict[int, gs.Node]:
    """Give `b`'s nodes and tensors the names and the order that they have in `a`.

    Nodes are paired when everything that they depend on, or that depends on them, is equal, and then when they are the
    same operator at the same place beside a pair. Of several nodes that look alike, each pair decides about its
    neighbours before the next one is made. Returns `a`'s node by id of `b`'s node.
    """
    pairs = _Pairs()
    a.cleanup()
    b.cleanup()
    keys = [(_by_inputs(graph), _by_uses(graph), _by_itself(graph)) for graph in (a, b)]
    for parts, unique in (((0, 1), True), ((0, 1), False), ((0,), True), ((1,), True), ((2,), True), ((0,), False),
                          ((1,), False)):  # fmt: skip
        _pair_equal(a, b, pairs, [_joined(of, parts) for of in keys], unique)
    _order(a.gs, {id(node): i for i, node in enumerate(a.nodes)})
    position = {id(node): i for i, node in enumerate(a.nodes)}
    _order(b.gs, {id(node): position[id(pairs.of_b[id(node)])] for node in b.nodes if id(node) in pairs.of_b})
    _rename(a, b, pairs)
    return pairs.of_b


class _Pairs:
    def __init__(self) -> None:
        self.of_a: dict[int, gs.Node] = {}
        self.of_b: dict[int, gs.Node] = {}
        self.found: list[tuple[gs.Node, gs.Node]] = []

    def add(self, a: gs.Node, b: gs.Node) -> bool:
        if id(a) in self.of_a or id(b) in self.of_b:
            return False
        self.of_a[id(a)], self.of_b[id(b)] = b, a
        self.found.append((a, b))
        return True


Keys = dict[int, Hashable]


def _joined(keys: Sequence[Keys], parts: Sequence[int]) -> Keys:
    return {node: tuple(keys[part][node] for part in parts) for node in keys[0]}


def _pair_equal(a: Graph, b: Graph, pairs: _Pairs, keys: Sequence[Keys], unique: bool) -> None:
    """Pair the nodes whose keys are equal: those that only one node has, or as many on both sides."""
    groups: dict[Hashable, tuple[list[gs.Node], list[gs.Node]]] = defaultdict(lambda: ([], []))
    for side, graph, taken in ((0, a, pairs.of_a), (1, b, pairs.of_b)):
        for node in graph.nodes:
            if id(node) not in taken:
                groups[keys[side][id(node)]][side].append(node)
    for mine, theirs in groups.values():
        if len(mine) != len(theirs) or (unique and len(mine) > 1):
            continue
        for x in mine:
            y = next((y for y in theirs if id(y) not in pairs.of_b), None)
            if y is not None and pairs.add(x, y):
                _spread(pairs, (x, y))


def _hash(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _itself(node: gs.Node) -> tuple[str, ...]:
    constants = [f"{i}:{value_text(t)}" for i, t in enumerate(node.inputs) if isinstance(t, gs.Constant)]
    return node.op, node.domain or "", attributes_text(node), body_text(node), *constants


def _by_itself(graph: Graph) -> Keys:
    return {id(node): _itself(node) for node in graph.nodes}


def _by_inputs(graph: Graph) -> Keys:
    known: dict[int, str] = {id(t): _hash("input", i, type_text(t)) for i, t in enumerate(graph.gs.inputs)}
    keys: Keys = {}
    for node in graph.nodes:
        inputs = [known.get(id(t), "" if not isinstance(t, gs.Constant) else value_text(t)) for t in node_inputs(node)]
        keys[id(node)] = _hash(*_itself(node), *inputs)
        for index, tensor in enumerate(node.outputs):
            known[id(tensor)] = _hash(keys[id(node)], index)
    return keys


def _by_uses(graph: Graph) -> Keys:
    uses: dict[int, list[str]] = defaultdict(list)
    for index, tensor in enumerate(graph.gs.outputs):
        uses[id(tensor)].append(f"output {index}")
    keys: Keys = {}
    for node in reversed(graph.nodes):
        keys[id(node)] = _hash(*_itself(node), *[sorted(uses[id(t)]) for t in node.outputs])
        for index, tensor in enumerate(node_inputs(node)):
            uses[id(tensor)].append(f"{keys[id(node)]}:{index}")
    return keys


def _spread(pairs: _Pairs, start: tuple[gs.Node, gs.Node]) -> None:
    """From a pair on: producers at the same input, and consumers that are the only ones of their operator."""
    queue = [start]
    while queue:
        a, b = queue.pop()
        for x, y in zip(a.inputs, b.inputs, strict=False):
            for mine, theirs in zip(x.inputs, y.inputs, strict=False):
                if _alike(mine, theirs) and pairs.add(mine, theirs):
                    queue.append((mine, theirs))
        for x, y in zip(a.outputs, b.outputs, strict=False):
            for mine, theirs in _consumers(x, y, pairs):
                if pairs.add(mine, theirs):
                    queue.append((mine, theirs))


def _consumers(x: gs.Tensor, y: gs.Tensor, pairs: _Pairs) -> list[tuple[gs.Node, gs.Node]]:
    groups: dict[tuple[str, str], tuple[list[gs.Node], list[gs.Node]]] = defaultdict(lambda: ([], []))
    for side, tensor, taken in ((0, x, pairs.of_a), (1, y, pairs.of_b)):
        for node in tensor.outputs:
            if id(node) not in taken:
                groups[node.op, node.domain or ""][side].append(node)
    return [(mine[0], theirs[0]) for mine, theirs in groups.values() if len(mine) == len(theirs) == 1]


def _alike(a: gs.Node, b: gs.Node) -> bool:
    return (a.op, a.domain or "") == (b.op, b.domain or "") and len(a.outputs) == len(b.outputs)


def _order(graph: gs.Graph, wish: dict[int, int]) -> None:
    """Topological order that follows `wish` where it may; nodes without one come right after what they wait for."""
    waiting: dict[int, int] = {}
    rank: dict[int, tuple[int, int]] = {}
    ready: list[tuple[tuple[int, int], gs.Node]] = []
    inside = {id(node) for node in graph.nodes}
    consumers: dict[int, list[gs.Node]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        makers = {id(m) for t in node_inputs(node) for m in t.inputs if id(m) in inside}
        for maker in makers:
            consumers[maker].append(node)
        waiting[id(node)] = len(makers)
        last = max((rank[m][0] for m in makers if m in rank), default=-1)
        rank[id(node)] = (wish.get(id(node), last), index)
        if not makers:
            heapq.heappush(ready, (rank[id(node)], node))
    ordered = []
    while ready:
        node = heapq.heappop(ready)[1]
        ordered.append(node)
        for user in consumers[id(node)]:
            waiting[id(user)] -= 1
            if not waiting[id(user)]:
                heapq.heappush(ready, (rank[id(user)], user))
    graph.nodes[:] = ordered


def _rename(a: Graph, b: Graph, pairs: _Pairs) -> None:
    """Names of `a` for what is paired; what is not paired must not carry a name that means something else in `a`."""
    names: dict[int, str] = {}
    for mine, theirs in zip(a.gs.inputs, b.gs.inputs, strict=False):
        names[id(theirs)] = mine.name
    for x, y in pairs.found:
        y.name = x.name
        own = {id(t) for t in y.outputs}
        if body_text(x) == body_text(y):
            _rename_bodies(x, y, names)
        for mine, theirs in zip([*x.outputs, *x.inputs], [*y.outputs, *y.inputs], strict=False):
            made_by_pair = bool(theirs.inputs) and id(theirs.inputs[0]) in pairs.of_b
            if id(theirs) in own or isinstance(theirs, gs.Constant) or made_by_pair:
                names.setdefault(id(theirs), mine.name)
    taken = set(names.values()) | set(tensors(a.gs))
    for tensor in _tensors(b):
        if id(tensor) in names:
            tensor.name = names[id(tensor)]
        elif tensor.name in taken and not isinstance(tensor, gs.Constant):
            tensor.name = f"{tensor.name}'"


def _rename_bodies(x: gs.Node, y: gs.Node, names: dict[int, str]) -> None:
    """Subgraphs that read the same are paired node by node."""
    for key, body in x.attrs.items():
        if not isinstance(body, gs.Graph):
            continue
        other = y.attrs[key]
        sides = [[*g.inputs, *(t for n in g.nodes for t in (*n.inputs, *n.outputs)), *g.outputs] for g in (body, other)]
        outer = {id(t) for t in other._foreign_tensors().values() if not isinstance(t, gs.Constant)}
        for mine, theirs in zip(*sides, strict=False):
            if mine.name and theirs.name and id(theirs) not in outer:
                names.setdefault(id(theirs), mine.name)
        for mine, theirs in zip(body.nodes, other.nodes, strict=False):
            _rename_bodies(mine, theirs, names)


def _tensors(graph: Graph) -> list[gs.Tensor]:
    seen: dict[int, gs.Tensor] = {id(t): t for t in [*graph.gs.inputs, *graph.gs.outputs]}
    for node in graph.nodes:
        seen.update({id(t): t for t in [*node_inputs(node), *node.outputs] if t.name})
    for body in graph.gs.subgraphs(recursive=True):
        for node in body.nodes:
            seen.update({id(t): t for t in [*node.inputs, *node.outputs] if t.name})
        seen.update({id(t): t for t in [*body.inputs, *body.outputs]})
    return list(seen.values())
