"""The graph at every stage of a run as plain data for the report: nodes, values, weights, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import attributes_text, body_text
from onnxgraft.ir.value_text import type_text, value_text

NODES = "nodes.json"  # in the folder of a build's passes
INLINE = 8  # constants of more values than this get statistics


class Stages:
    """Collects the graph after each pass. What two stages share is stored once.

    `data()` gives plain JSON:
        nodes: unique node versions [name, operator, inputs, outputs, types of outputs, attributes, subgraphs]; an input is
            a tensor's name, or the index of a constant.
        constants: [name, text, statistics or null]; statistics are {min, max, mean, std, zeros}.
        stages: per stage, the indices of its nodes in order, its inputs and its outputs.
        origins: node name -> [pass that made it, the nodes that it stands for].
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], int] = {}
        self._constants: dict[tuple[str, str], int] = {}
        self._statistics: list[dict[str, float] | None] = []
        self._by_text: dict[str, dict[str, float] | None] = {}
        self._stages: list[dict[str, Any]] = []
        self._origins: dict[str, tuple[str, tuple[str, ...]]] = {}

    def add(self, graph: Graph | None) -> None:
        """Record a stage; None repeats the one before."""
        if graph is None:
            self._stages.append(self._stages[-1])
            return
        indices = [self._nodes.setdefault(self._node(node), len(self._nodes)) for node in graph.nodes]
        ends = {
            side: [[t.name, type_text(t)] for t in tensors]
            for side, tensors in (("inputs", graph.gs.inputs), ("outputs", graph.gs.outputs))
        }
        self._stages.append({"nodes": indices, **ends})
        for name, origin in graph.origins.items():
            self._origins[name] = (origin.pass_name, origin.sources)

    def data(self) -> dict[str, Any]:
        constants = [[*key, self._statistics[index]] for key, index in self._constants.items()]
        nodes = [list(key) for key in self._nodes]
        return {"nodes": nodes, "constants": constants, "stages": self._stages, "origins": self._origins}

    def _node(self, node: gs.Node) -> tuple[Any, ...]:
        inputs = tuple(self._constant(t) if isinstance(t, gs.Constant) else t.name for t in node.inputs)
        outputs = tuple(t.name for t in node.outputs)
        types = tuple(type_text(t) for t in node.outputs)
        kind = f"{node.domain}::{node.op}" if node.domain else node.op
        return node.name, kind, inputs, outputs, types, attributes_text(node).strip(), body_text(node)

    def _constant(self, tensor: gs.Constant) -> int:
        text = value_text(tensor)
        key = (tensor.name, text)
        if key not in self._constants:
            self._constants[key] = len(self._constants)
            if text not in self._by_text:
                self._by_text[text] = statistics(tensor)
            self._statistics.append(self._by_text[text])
        return self._constants[key]


def statistics(tensor: gs.Constant) -> dict[str, float] | None:
    """Smallest, largest, mean, standard deviation and share of zeros of a constant of more than a few numbers."""
    if int(np.prod(tensor.shape or (), dtype=np.int64)) <= INLINE:
        return None
    values = np.asarray(tensor.values)
    if values.dtype.kind not in "iuf":
        return None
    with np.errstate(invalid="ignore"):  # a constant may be infinite: its mean and deviation are then left out
        found: Mapping[str, Any] = {
            "min": values.min(), "max": values.max(), "mean": values.mean(dtype=np.float64),
            "std": values.std(dtype=np.float32 if values.dtype.kind == "f" else np.float64),
            "zeros": 1 - np.count_nonzero(values) / values.size,
        }  # fmt: skip
    return {key: float(f"{float(value):.6g}") if np.isfinite(value) else None for key, value in found.items()}  # type: ignore[misc]
