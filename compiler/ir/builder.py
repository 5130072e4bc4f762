"""Adds nodes to a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.graph import Graph, Origin


class Builder:
    """Adds nodes to a graph for one part of the network; records where they come from."""

    def __init__(self, graph: Graph, prefix: str, sources: Iterable[str] = ()) -> None:
        self.graph = graph
        self.prefix = prefix
        self.sources = tuple(dict.fromkeys(sources))

    def const(self, hint: str, values: Any, dtype: Any = None) -> gs.Constant:
        return gs.Constant(self.graph.fresh(f"{self.prefix}/{hint}"), np.array(values, dtype=dtype))

    def ints(self, hint: str, values: Sequence[int] | int) -> gs.Constant:
        return self.const(hint, values, np.int64)

    def floats(self, hint: str, values: Any) -> gs.Constant:
        return self.const(hint, values, np.float32)

    def op(
        self,
        kind: str,
        inputs: Sequence[gs.Tensor],
        hint: str,
        *,
        dtype: Any = np.float32,
        shape: Sequence[int | str] | None = None,
        domain: str | None = None,
        **attrs: Any,
    ) -> gs.Variable:
        """One node with one output, which is returned."""
        return self.ops(kind, inputs, [(hint, dtype, shape)], domain=domain, **attrs)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[gs.Tensor],
        outputs: Sequence[tuple[str, Any, Sequence[int | str] | None]],
        *,
        domain: str | None = None,
        **attrs: Any,
    ) -> list[gs.Variable]:
        """One node with several outputs, given as (name hint, dtype, shape)."""
        made = [
            gs.Variable(self.graph.fresh(f"{self.prefix}/{hint}"), dtype, None if shape is None else list(shape))
            for hint, dtype, shape in outputs
        ]
        name = self.graph.fresh(f"{self.prefix}/{kind}:{outputs[0][0]}")
        node = gs.Node(kind, name, attrs=attrs, inputs=list(inputs), outputs=made, domain=domain)
        self.graph.gs.nodes.append(node)
        self.graph.origins[name] = Origin(self.graph.current_pass, self.sources)
        return made
