"""Splits TopK nodes that keep more than TensorRT's TopK can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import scalar
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import STATIC_INPUT, Fact
from onnxgraft.plugins.native.topk import TOP_K_LIMIT


@dataclass(frozen=True, kw_only=True)
class SplitTopk(Pass):
    """Split every TopK of more than 3840 into stages: the winners are overwritten and the rest is searched again.

    The results are those of one TopK, ties included. Legal when (1) k is constant, the last axis is searched for the
    largest, in order, (2) the result's shape is static. A smaller TopK is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (STATIC_INPUT,)

    limit: int = TOP_K_LIMIT

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return None if self._found(graph) else f"no TopK keeps more than {self.limit}"

    def run(self, graph: Graph, ctx: Context) -> None:
        for node, k in self._found(graph):
            self._split(graph, node, k)
            ctx.count("split")
        graph.cleanup()

    def _found(self, graph: Graph) -> list[tuple[gs.Node, int]]:
        """The nodes that keep too many, with how many each keeps."""
        kept = [(node, scalar(node.inputs[1])) for node in graph.nodes if node.op == "TopK"]
        return [(node, int(k)) for node, k in kept if k is not None and k > self.limit]

    def _split(self, graph: Graph, node: gs.Node, k: int) -> None:
        shape = node.outputs[0].shape
        if not node.attrs.get("largest", 1) or not node.attrs.get("sorted", 1):
            raise Refusal("only the largest, in order, can be found in stages", node.name)
        if not shape or node.attrs.get("axis", -1) not in (-1, len(shape) - 1):
            raise Refusal(f"searches axis {node.attrs.get('axis', -1)} of {shape}; only the last can be split", node.name)
        if not all(isinstance(d, int) for d in shape):
            raise Refusal(f"keeps {k} of a tensor of varying shape {shape}, so it cannot be split", node.name)
        b = Builder(graph, "split_topk", [node.name])
        dtype = np.dtype(node.outputs[0].dtype or np.float32)
        values, parts = node.inputs[0], []
        axis = len(shape) - 1
        for start in range(0, k, self.limit):
            size = [*shape[:-1], min(self.limit, k - start)]
            best, index = b.ops(
                "TopK", [values, b.ints("k", [size[-1]])], [("best", dtype, size), ("index", np.int64, size)],
                axis=axis, largest=1, sorted=1,
            )  # fmt: skip
            parts.append((best, index))
            if start + size[-1] < k:
                lowest = b.const("lowest", np.full(size, np.finfo(dtype).min, dtype))
                values = b.op("ScatterElements", [values, index, lowest], "rest", dtype=dtype, shape=node.inputs[0].shape,
                              axis=axis)  # fmt: skip
        for position, kind in ((0, dtype), (1, np.dtype(np.int64))):
            joined = b.op("Concat", [part[position] for part in parts], "joined", dtype=kind, shape=list(shape), axis=axis)
            graph.replace(node.outputs[position], joined)
