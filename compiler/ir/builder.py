"""Adds nodes to a graph: as formulas over `Value`s, or one operator at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.graph import Graph, Origin
from onnxgraft.ir.shape_inference import infer_node
from onnxgraft.ir.value import Constant, Operand, Value, as_array

Shape = Sequence[int | str]


class Builder:
    """Adds nodes to a graph for one part of the network; records where they come from.

    Types and shapes of what is added are inferred by ONNX's own rules for the operator; give `dtype` and `shape` where
    those cannot know (the number of rows that a NonZero finds) or where a dimension should keep a name.

    Attributes:
        prefix: the part of the network; every name begins with it.
        sources: names of the nodes that the new ones stand for.
    """

    def __init__(self, graph: Graph, prefix: str, sources: Iterable[str] = ()) -> None:
        self.graph = graph
        self.prefix = prefix
        self.sources = tuple(dict.fromkeys(sources))
        self._open: tuple[gs.Tensor, int] | None = None

    def of(self, tensor: gs.Tensor | Value | str) -> Value:
        """A tensor of the graph, or the one of that name, for formulas whose nodes belong to this part."""
        return Value(self, self.graph.tensor(tensor) if isinstance(tensor, str) else tensor_of(tensor))

    def const(self, hint: str, values: Any, dtype: Any = None) -> gs.Constant:
        return gs.Constant(self.graph.fresh(f"{self.prefix}/{hint}"), np.array(values, dtype=dtype))

    def ints(self, hint: str, values: Sequence[int] | int) -> gs.Constant:
        """An int64 constant of the shape of `values`."""
        return self.const(hint, values, np.int64)

    def floats(self, hint: str, values: Any) -> gs.Constant:
        """A float32 constant of the shape of `values`."""
        return self.const(hint, values, np.float32)

    def op(
        self, kind: str, inputs: Sequence[Operand], hint: str, *, dtype: Any = None, shape: Shape | None = None,
        domain: str | None = None, **attrs: Any,
    ) -> gs.Variable:  # fmt: skip
        """One node with one output, which is returned."""
        return self.ops(kind, inputs, [(hint, dtype, shape)], domain=domain, **attrs)[0]

    def ops(
        self, kind: str, inputs: Sequence[Operand], outputs: Sequence[tuple[str, Any, Shape | None]], *,
        domain: str | None = None, **attrs: Any,
    ) -> list[gs.Variable]:  # fmt: skip
        """One node with several outputs, given as (name hint, dtype, shape); None for what inference finds out."""
        tensors = [self._tensor(operand) for operand in inputs]
        made = [
            gs.Variable(self.graph.fresh(f"{self.prefix}/{hint}"), dtype, None if shape is None else list(shape))
            for hint, dtype, shape in outputs
        ]
        name = self.graph.fresh(f"{self.prefix}/{kind}:{outputs[0][0]}")
        node = gs.Node(kind, name, attrs=attrs, inputs=tensors, outputs=made, domain=domain)
        infer_node(node, self.graph.gs.opset)
        self.graph.gs.nodes.append(node)
        self.graph.origins[name] = Origin(self.graph.current_pass, self.sources)
        return made

    # -- the back end of Value -----------------------------------------------------------------------------------

    def emit(self, op: str, inputs: Sequence[Operand], attrs: Mapping[str, Any], hints: Sequence[str]) -> list[gs.Variable]:
        tensors = [self._tensor(operand) for operand in inputs]
        serial = self.graph.serial
        made = self.ops(op, tensors, [(hint or _snake(op), None, None) for hint in hints], **attrs)
        self._open = made[0], serial
        return made

    def rename(self, handle: gs.Tensor, hint: str) -> gs.Tensor:
        (node,) = handle.inputs
        origin = self.graph.origins.pop(node.name)
        last = self._open is not None and self._open[0] is handle
        self.graph.release((handle.name, node.name), self._open[1] if self._open is not None and last else None)
        old, handle.name = handle.name, self.graph.fresh(f"{self.prefix}/{hint}")
        if handle.shape is not None:  # dimensions that inference named after the tensor
            handle.shape = [f"{handle.name}_{i}" if d == f"{old}_{i}" else d for i, d in enumerate(handle.shape)]
        node.name = self.graph.fresh(f"{self.prefix}/{node.op}:{hint}")
        self.graph.origins[node.name] = origin
        return handle

    def label(self, handle: gs.Tensor) -> str:
        return handle.name

    def shape(self, handle: gs.Tensor) -> Shape | None:
        return None if handle.shape is None else list(handle.shape)

    def _tensor(self, operand: Operand) -> gs.Tensor:
        if isinstance(operand, Value):
            return operand.handle
        if isinstance(operand, gs.Tensor):
            return operand
        if isinstance(operand, Constant):
            return self.const(operand.hint, operand.array())
        return self.const("constant", as_array(operand))


def tensor_of(value: Value | gs.Tensor) -> gs.Tensor:
    """The graph's tensor behind a value."""
    return value.handle if isinstance(value, Value) else value


def _snake(op: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", op).lower()
