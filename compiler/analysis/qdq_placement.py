"""Where activations are quantized, by structure: what layers with weights read, and what skip connections add."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnxgraft.analysis.regions import Regions
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import SAME_VALUES

# Their outputs hold values of their inputs, so both sides can share a scale.
Reader = tuple[gs.Node, int]


@dataclass
class Sites:
    """Tensors to quantize.

    Attributes:
        tensors: by id, in the order of execution.
        readers: (node, input index) that read the quantized form, by id of the tensor.
        tied: pairs of ids that share one scale.
    """

    tensors: dict[int, gs.Tensor] = field(default_factory=dict)
    readers: dict[int, list[Reader]] = field(default_factory=dict)
    tied: list[tuple[int, int]] = field(default_factory=list)

    def add(self, tensor: gs.Tensor, reader: Reader) -> None:
        self.tensors[id(tensor)] = tensor
        readers = self.readers.setdefault(id(tensor), [])
        if not any(node is reader[0] and index == reader[1] for node, index in readers):
            readers.append(reader)

    def groups(self) -> list[list[str]]:
        """Names of the tensors, those that share a scale together."""
        root = {key: key for key in self.tensors}

        def find(key: int) -> int:
            while root[key] != key:
                key = root[key]
            return key

        for a, b in self.tied:
            root[find(b)] = find(a)
        grouped: dict[int, list[str]] = {}
        for key, tensor in self.tensors.items():
            grouped.setdefault(find(key), []).append(tensor.name)
        return list(grouped.values())


def find_sites(graph: Graph, regions: Regions, kept: set[str]) -> Sites:
    """All activations that become int8 when the layers of `kept` do not."""
    sites = Sites()
    quantized = {id(node) for name, node in regions.layers.items() if name not in kept}
    for node in graph.nodes:
        if id(node) in quantized:
            sites.add(node.inputs[0], (node, 0))
        elif node.op == "Add" and node.name in regions.of:
            index = _residual(node, quantized)
            if index is not None:
                sites.add(node.inputs[index], (node, index))
    _tie(sites)
    return sites


def _residual(add: gs.Node, quantized: set[int]) -> int | None:
    """Which operand of a skip connection is not the convolution that TensorRT fuses with the Add."""
    if len(add.inputs) != 2 or any(isinstance(t, gs.Constant) or not t.inputs for t in add.inputs):
        return None
    made = [id(t.inputs[0]) in quantized for t in add.inputs]
    if not any(made):
        return None
    return 1 if made[0] else 0


def _tie(sites: Sites) -> None:
    """Let a MaxPool, nearest Resize or Concat between two sites read the first and keep its scale."""
    for key, tensor in list(sites.tensors.items()):
        for node, index in _same_values(tensor):
            source = node.inputs[index]
            if id(source) in sites.tensors:
                sites.tied.append((id(source), key))
                sites.add(source, (node, index))


def _same_values(tensor: gs.Tensor) -> Iterable[Reader]:
    """(node, input) pairs whose values the tensor repeats, nearest first, up to the first site's candidates."""
    queue = [tensor]
    while queue:
        for node in queue.pop().inputs:
            nearest = node.op == "Resize" and node.attrs.get("mode", "nearest") == "nearest"
            if node.op in SAME_VALUES or nearest:
                indices: Iterable[int] = (0,)
            elif node.op == "Concat":
                indices = range(len(node.inputs))
            else:
                continue
            for index in indices:
                yield node, index
                queue.append(node.inputs[index])
