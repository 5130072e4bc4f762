"""Places in a graph, and small changes of it: what the kinds of mutants are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

Place = tuple[gs.Graph, gs.Node, int]  # the graph that holds the node, the node, an input of it
FLOATS = (np.float32, np.float64)


class NoPlaceError(Exception):
    """The graph has no place for this kind of change."""


@dataclass
class Edit:
    """A graph that gets one change.

    chance: decides where and how. said: what was done, for people.
    """

    graph: gs.Graph
    chance: random.Random
    said: list[str] = field(default_factory=list)
    _serial: int = 0

    def owned(self, *ops: str) -> Iterator[tuple[gs.Graph, gs.Node]]:
        """Nodes of these kinds (all without any), those of branches included, with the graph that holds them."""
        waiting = [self.graph]
        while waiting:
            graph = waiting.pop(0)
            for node in graph.nodes:
                waiting += [held for held in node.attrs.values() if isinstance(held, gs.Graph)]
                if node.outputs and (not ops or node.op in ops):
                    yield graph, node

    def nodes(self, *ops: str) -> list[gs.Node]:
        return [node for _, node in self.owned(*ops)]

    def pick(self, found: Sequence[Any]) -> Any:
        """One of what was found. Raises NoPlaceError when nothing was."""
        if not found:
            raise NoPlaceError
        return self.chance.choice(found)

    def node(self, *ops: str, where: Callable[[gs.Node], bool] = lambda _: True) -> gs.Node:
        return self.pick([node for node in self.nodes(*ops) if where(node)])

    def tell(self, words: str) -> None:
        self.said.append(words)

    def constants(self, ops: Sequence[str], least: int = 1, most: int = 1, kind: str = "f") -> list[tuple[gs.Node, int]]:
        """(node, input) of constants of a size, of a numpy kind, that nodes of these kinds read."""
        found = []
        for node in self.nodes(*ops):
            for index, tensor in enumerate(node.inputs):
                held = value(tensor)
                if held is not None and held.dtype.kind == kind and least <= held.size <= most:
                    found.append((node, index))
        return found

    def set(self, node: gs.Node, index: int, array: Any, dtype: Any = None) -> None:
        """Give a node another constant at an input."""
        old = value(node.inputs[index])
        dtype = dtype or (old.dtype if old is not None else np.float32)
        new = np.asarray(array, dtype)
        before = "" if old is None else np.array2string(old.reshape(-1)[:4], precision=6)
        self.tell(f"{node.op} {node.name!r} input {index}: {before} -> {np.array2string(new.reshape(-1)[:4], precision=6)}")
        node.inputs[index] = gs.Constant(self.fresh("changed"), new)

    def fresh(self, hint: str) -> str:
        self._serial += 1
        return f"mutant_{hint}_{self._serial}"

    def make(
        self, graph: gs.Graph, before: gs.Node | None, op: str, inputs: Sequence[Any], dtype: Any = np.float32,
        shape: Any = None, outputs: int = 1, **attrs: Any,
    ) -> Any:  # fmt: skip
        """Add a node in front of another (at the end for None); arrays among the inputs become constants."""
        held = [i if isinstance(i, gs.Tensor) else gs.Constant(self.fresh("constant"), np.asarray(i)) for i in inputs]
        made = [gs.Variable(self.fresh(op), dtype, shape) for _ in range(outputs)]
        node = gs.Node(op, self.fresh(f"node_{op}"), attrs, held, made)
        at = len(graph.nodes) if before is None else next(i for i, n in enumerate(graph.nodes) if n is before)
        graph.nodes.insert(at, node)
        return made[0] if outputs == 1 else made

    def edges(self, floating: bool = True, ops: Sequence[str] = ()) -> list[Place]:
        """Inputs that are no constants, of known type."""
        found = []
        for graph, node in self.owned(*ops):
            for index, tensor in enumerate(node.inputs):
                known = isinstance(tensor, gs.Variable) and tensor.dtype is not None and value(tensor) is None and tensor.name
                if known and (not floating or np.dtype(tensor.dtype) == np.float32):
                    found.append((graph, node, index))
        return found

    def put(self, place: Place, op: str, *more: Any, **attrs: Any) -> gs.Tensor:
        """Put a node of one input (and constants) on an edge."""
        graph, node, index = place
        old = node.inputs[index]
        new = self.make(graph, node, op, [old, *more], old.dtype, old.shape, **attrs)
        node.inputs[index] = new
        self.tell(f"{op} in front of input {index} of {node.op} {node.name!r}")
        return new

    def bypass(self, node: gs.Node, index: int = 0) -> None:
        """Let readers of a node read its input."""
        instead, gone = node.inputs[index], node.outputs[0]
        for _, reader in list(self.owned()):
            for at, tensor in enumerate(reader.inputs):
                if tensor is gone:
                    reader.inputs[at] = instead
        for graph in self.graphs():
            for at, tensor in enumerate(graph.outputs):
                if tensor is gone:
                    if isinstance(instead, gs.Constant) or (graph is self.graph and any(instead is t for t in graph.inputs)):
                        raise NoPlaceError
                    graph.outputs[at] = instead
        node.outputs.clear()
        self.tell(f"without {node.op} {node.name!r}")

    def graphs(self) -> list[gs.Graph]:
        found = [self.graph]
        for graph in found:
            found += [held for node in graph.nodes for held in node.attrs.values() if isinstance(held, gs.Graph)]
        return found

    def outputs(self) -> dict[str, gs.Tensor]:
        """What the graph gives: boxes, scores, classes, masks, heatmaps, semantic, by shape and type."""
        found: dict[str, gs.Tensor] = {}
        for tensor in self.graph.outputs:
            if isinstance(tensor, gs.Constant) or tensor.dtype is None:
                continue
            rank, floating = len(tensor.shape or ()), np.dtype(tensor.dtype).kind == "f"
            if tensor.shape == [2] or value(tensor) is not None:
                continue
            role = {(1, True): "scores", (2, True): "boxes", (1, False): "classes", (3, True): "semantic"}.get((rank, floating))
            if rank == 4 and floating:
                shape = list(tensor.shape)
                role = "masks" if shape[1] == 1 else "semantic" if shape[0] == 1 else "heatmaps"
            if role and role not in found:
                found[role] = tensor
        return found

    def output(self, role: str) -> gs.Tensor:
        found = self.outputs()
        if role not in found:
            raise NoPlaceError
        return found[role]

    def behind(self, old: gs.Tensor, op: str, *more: Any, shape: Any = None, dtype: Any = None, **attrs: Any) -> gs.Tensor:
        """Put a node behind an output; the output's name goes to the new one."""
        return self.instead(old, self.make(self.graph, None, op, [old, *more], dtype or old.dtype, shape or old.shape, **attrs))

    def instead(self, old: gs.Tensor, new: gs.Tensor) -> gs.Tensor:
        """Let another tensor be an output in place of one, under its name."""
        old.name, new.name = self.fresh("was_output"), old.name
        self.graph.outputs[:] = [new if t is old else t for t in self.graph.outputs]
        self.tell(f"output {new.name!r} by {new.inputs[0].op}")
        return new

    def rows(self, index: Any) -> None:
        """Let all outputs that have a row for each detection have those of an index [k]."""
        if not isinstance(index, gs.Tensor):
            index = np.asarray(index, np.int64)
        for role, old in self.outputs().items():
            if role != "semantic":
                self.behind(old, "Gather", index, shape=["mutant_rows", *list(old.shape)[1:]], axis=0)

    def where(self, mask: gs.Tensor) -> gs.Tensor:
        """Row numbers [k] of a mask [n]."""
        return self.make(self.graph, None, "Squeeze", [self.make(self.graph, None, "NonZero", [mask], np.int64), [0]], np.int64)

    def column(self, boxes: gs.Tensor, index: int) -> gs.Tensor:
        return self.make(self.graph, None, "Gather", [boxes, np.int64(index)], np.float32, [boxes.shape[0]], axis=1)

    def end(self, op: str, *inputs: Any, dtype: Any = np.float32, **attrs: Any) -> gs.Tensor:
        """A node at the end of the graph."""
        return self.make(self.graph, None, op, inputs, dtype, **attrs)


def value(tensor: gs.Tensor) -> np.ndarray | None:
    """The array of a constant, or None."""
    if isinstance(tensor, gs.Constant):
        return np.asarray(tensor.values)
    if tensor.inputs and tensor.inputs[0].op == "Constant" and len(tensor.inputs[0].attrs) == 1:
        (held,) = tensor.inputs[0].attrs.values()
        array = np.asarray(held.values if isinstance(held, gs.Constant) else held)
        return array.astype(np.float32) if array.dtype == np.float64 and not isinstance(held, gs.Constant) else array
    return None


def made_by(tensor: gs.Tensor) -> gs.Node | None:
    return tensor.inputs[0] if tensor.inputs else None
