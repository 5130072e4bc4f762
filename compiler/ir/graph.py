"""The graph that passes rewrite: onnx-graphsurgeon's IR with lazy weights, provenance and a fingerprint.

`Graph` adds to `gs.Graph` what a compiler needs and nothing about detectors: weights stay in the file they came from
until the result is written, every node knows the pass that made it, and two graphs can be compared cheaply.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from onnxgraft.errors import Refusal
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.converted import was_converted
from onnxgraft.ir.exporting import IR_VERSION, PLUGIN_DOMAIN, Exported, Exporter
from onnxgraft.ir.importing import import_model
from onnxgraft.ir.observed import Observed
from onnxgraft.ir.ops import WITH_GRAPHS
from onnxgraft.ir.serde import Skeleton, read_skeleton
from onnxgraft.ir.traverse import node_inputs, tensors
from onnxgraft.ir.weights import MappedValues
from onnxgraft.ir.writing import write_model

G_LOGGER.severity = G_LOGGER.CRITICAL  # what graphsurgeon prints about broken graphs, the manager tells in one line

__all__ = ["IR_VERSION", "PLUGIN_DOMAIN", "Graph", "Origin"]


@dataclass(frozen=True)
class Origin:
    """Who made a node: the pass, and the nodes it stands for."""

    pass_name: str
    sources: tuple[str, ...] = ()


class Graph:
    """An ONNX graph under rewriting.

    Attributes:
        gs: the onnx-graphsurgeon graph; passes may use all of its API.
        functions: model-local functions (bodies of plugin ops) written with the graph.
        origins: provenance by node name; a node that is absent came with the model.
        converted: whether ONNX's version converter raised the file's opset before it came here.
        bytes_to_fold: what one evaluation ahead of time may make.
        observed: what was made of the graph between two passes, such as its text.
    """

    def __init__(self, graph: gs.Graph, functions: Sequence[onnx.FunctionProto] = ()) -> None:
        self.gs = graph
        self.functions: dict[str, onnx.FunctionProto] = {f.name: f for f in functions}
        self.origins: dict[str, Origin] = {}
        self.current_pass, self._serial = "", 0
        self.source_opset = graph.opset
        self.converted = False
        self.bytes_to_fold = Bounds().bytes_to_fold(0)
        self.observed: Observed[Graph] = Observed(self)
        self._exporter = Exporter()

    @staticmethod
    def load(path: str | Path, bounds: Bounds | None = None) -> Graph:
        """Read an ONNX file; weights stay on disk. Raises InputError, and Refusal for what exceeds the bounds."""
        bounds = bounds or Bounds()
        graph = Graph.from_skeleton(read_skeleton(path, bounds))
        graph.bytes_to_fold = bounds.bytes_to_fold(Path(path).stat().st_size)
        return graph

    @staticmethod
    def from_skeleton(skeleton: Skeleton) -> Graph:
        model = skeleton.model
        functions = [f for f in model.functions if f.domain == PLUGIN_DOMAIN]
        del model.functions[:]
        graph = Graph(import_model(model), functions)
        graph.converted = was_converted(model)
        for tensor in tensors(graph.gs).values():
            if isinstance(tensor, gs.Constant) and tensor.name in skeleton.weights:
                tensor._values = MappedValues(tensor._values.tensor, skeleton.weights[tensor.name])
                tensor.data_location = None
        graph.name_nodes()
        return graph

    def skeleton(self) -> Skeleton:
        """The graph as a model whose large weights are left in place."""
        return self.exported().skeleton()

    def exported(self) -> Exported:
        """The graph's messages; what an export before it made is used again."""
        return self._exporter.export(self.gs, [self.functions[name] for name in sorted(self.functions)])

    def save(self, path: str | Path) -> None:
        """Write the graph; weights are streamed from the file they came from."""
        write_model(self.skeleton(), path)

    @property
    def nodes(self) -> list[gs.Node]:
        return self.gs.nodes

    def tensor(self, name: str) -> gs.Tensor:
        """The tensor of that name. Raises Refusal when the graph has lost it."""
        for node in self.gs.nodes:  # what nodes make is asked for most
            for tensor in node.outputs:
                if tensor.name == name:
                    return tensor
        read = (tensor for node in self.gs.nodes for tensor in node.inputs)
        for tensor in chain(self.gs.inputs, self.gs.outputs, read):
            if tensor.name == name:
                return tensor
        raise Refusal(f"the graph has no tensor {name!r} any more; was an earlier pass skipped or replaced?")

    def name_nodes(self) -> None:
        """Give every node of the main graph a unique name: provenance and messages need one."""
        seen: set[str] = set()
        for index, node in enumerate(self.gs.nodes):
            if not node.name or node.name in seen:
                node.name = f"{node.op}_{index}"
                while node.name in seen:
                    node.name += "_"
            seen.add(node.name)

    def fresh(self, hint: str) -> str:
        """A tensor or node name that the graph does not have yet."""
        taken = self._taken()
        name = hint
        while name in taken:
            self._serial += 1
            name = f"{hint}_{self._serial}"
        taken.add(name)
        return name

    @property
    def serial(self) -> int:
        """The last number that `fresh` made a name unique with."""
        return self._serial

    def release(self, names: Iterable[str], serial: int | None = None) -> None:
        """Let `fresh` give these names again, and count on from `serial`."""
        self._taken().difference_update(names)
        self._serial = self._serial if serial is None else serial

    def _taken(self) -> set[str]:
        key = id(self.gs), self.current_pass
        if getattr(self, "_taken_key", None) != key:
            self._taken_key = key
            self._taken_names = set(tensors(self.gs)) | {node.name for node in self.gs.nodes}
            for sub in self.subgraphs():
                self._taken_names |= set(tensors(sub))
        return self._taken_names

    def cleanup(self) -> None:
        """Drop nodes that no output needs; sort topologically, leaving sorted parts as they are.

        Raises:
            Refusal: the graph has a cycle.
        """
        makers = self._live()
        for node in self.gs.nodes:
            if id(node) not in makers:
                _detach(node)
        ordered: list[gs.Node] = []
        state: dict[int, int] = {}  # 1 while its inputs are visited, 2 when placed
        for root in self.gs.nodes:
            stack = [root] if id(root) in makers else []
            while stack:
                node = stack[-1]
                if state.get(id(node)) == 2:
                    stack.pop()
                    continue
                waiting = [maker for maker in makers[id(node)] if state.get(id(maker)) != 2]
                if not waiting:
                    state[id(node)] = 2
                    ordered.append(stack.pop())
                    continue
                if state.get(id(node)) == 1 and any(state.get(id(w)) == 1 for w in waiting):
                    raise Refusal("the graph has a cycle", node.name)
                state[id(node)] = 1
                stack += waiting[::-1]
        self.gs.nodes[:] = ordered

    def _live(self) -> dict[int, list[gs.Node]]:
        """The nodes that the outputs depend on, by id, with the nodes that make their inputs."""
        live: dict[int, list[gs.Node]] = {}
        stack = [t.inputs[0] for t in self.gs.outputs if t.inputs]
        while stack:
            node = stack.pop()
            if id(node) not in live:
                live[id(node)] = [t.inputs[0] for t in node_inputs(node) if t.inputs]
                stack += live[id(node)]
        return live

    def replace(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let every consumer of `old` (subgraphs included) and the graph's outputs read `new` instead."""
        self.redirect(list(old.outputs), old, new)
        for graph in [self.gs, *self.subgraphs()]:
            for index, tensor in enumerate(graph.outputs):
                if tensor is old:
                    graph.outputs[index] = new

    def subgraphs(self) -> list[gs.Graph]:
        """All graphs held by nodes (branches of If, bodies of Loop), at any depth."""
        found: list[gs.Graph] = []
        waiting = [self.gs]
        while waiting:
            for node in waiting.pop().nodes:
                if node.op in WITH_GRAPHS or node.domain:
                    held = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
                    found, waiting = found + held, waiting + held
        return found

    def redirect(self, consumers: Iterable[gs.Node], old: gs.Tensor, new: gs.Tensor) -> None:
        """Let some consumers of `old` read `new` instead."""
        for node in consumers:
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new


def _detach(node: gs.Node) -> None:
    """Unhook a dead node, so that no tensor counts it or its subgraphs' nodes among its consumers."""
    for held in node.attrs.values():
        if isinstance(held, gs.Graph):
            for inner in held.nodes:
                _detach(inner)
    node.inputs.clear()
    node.outputs.clear()
