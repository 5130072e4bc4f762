"""Writes plugin bodies as formulas: the back end of `Value` that makes ONNX functions and graphs.

Python floats become float32 constants, Python ints int64 constants, arrays keep their dtype; equal constants are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxgraft.ir.value import Constant, Operand, Value, as_array, emit

_REFERENCES = {
    AttributeProto.FLOAT: "value_float",
    AttributeProto.INT: "value_int",
    AttributeProto.INTS: "value_ints",
}

_References = dict[str, tuple[str, AttributeProto.AttributeType]]


class Builder:
    """Collects nodes for a graph (constants become initializers) or a function (Constant nodes)."""

    def __init__(self, *, function: bool = False, parent: Builder | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._function = function
        self._parent = parent
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._counter: list[int] = parent._counter if parent else [0]

    def body(self) -> Builder:
        """A builder for a Loop or If body: names stay unique, outer values are visible."""
        return Builder(function=self._function, parent=self)

    def input(self, name: str) -> Value:
        """An input of the graph or function."""
        return Value(self, name)

    def here(self, value: Value) -> Value:
        """The outer value, so that operators on it add nodes to this body."""
        return Value(self, value.name)

    def op(self, op_type: str, *inputs: Operand, **attributes: Any) -> Value:
        """One node with one output."""
        return emit(self, op_type, *inputs, **attributes)

    def ops(self, op_type: str, *inputs: Operand, outputs: int, **attributes: Any) -> list[Value]:
        """One node with several outputs."""
        return [Value(self, name) for name in self.emit(op_type, inputs, attributes, [""] * outputs)]

    def referring(self, op_type: str, *inputs: Operand, references: _References, **attrs: Any) -> Value:
        """A node with attributes taken from the enclosing function: {name: (function's, type)}."""
        value = self.op(op_type, *inputs, **attrs)
        for name, (source, kind) in references.items():
            reference = AttributeProto(name=name, ref_attr_name=source)
            reference.type = kind
            self.nodes[-1].attribute.append(reference)
        return value

    def attribute(self, name: str, kind: AttributeProto.AttributeType) -> Value:
        """The function's attribute as a tensor: scalar float32 or int64, or int64 [n]."""
        return self.referring("Constant", references={_REFERENCES[kind]: (name, kind)})

    def constant(self, value: Operand) -> Value:
        """A constant of the value's shape: float32 for Python floats, int64 for Python ints, else of the array's dtype."""
        array = value.array() if isinstance(value, Constant) else as_array(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.fresh("const")
            tensor = numpy_helper.from_array(array, name)
            if self._function:
                self.nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
            else:
                self.initializers.append(tensor)
            self._constants[key] = Value(self, name)
        return self._constants[key]

    def output(self, value: Value, name: str) -> None:
        """Give the value a fixed name (an output of the graph or function)."""
        self.nodes.append(helper.make_node("Identity", [value.name], [name], name=f"{name}_out"))

    def graph(
        self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """What was collected, as a graph."""
        return helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)

    def fresh(self, stem: str) -> str:
        """A name that no other tensor or node of this builder or its bodies has."""
        self._counter[0] += 1
        return f"{stem}_{self._counter[0]}"

    # -- the back end of Value -----------------------------------------------------------------------------------

    def emit(self, op: str, inputs: Sequence[Operand], attrs: Mapping[str, Any], hints: Sequence[str]) -> list[str]:
        operands = [value.name if isinstance(value, Value) else self.constant(value).name for value in inputs]
        stem = self.fresh(hints[0] or op)
        names = [stem] if len(hints) == 1 else [f"{stem}_{i}" for i in range(len(hints))]
        self.nodes.append(helper.make_node(op, operands, names, name=stem, **attrs))
        return names

    def rename(self, handle: str, hint: str) -> str:
        node = next(node for node in reversed(self.nodes) if handle in node.output)
        if any(handle in other.input for other in self.nodes):
            raise ValueError(f"{handle!r} is read already: name a value before it is used")
        node.name = self.fresh(hint)
        node.output[list(node.output).index(handle)] = node.name
        return node.name

    def label(self, handle: str) -> str:
        return handle

    def shape(self, handle: str) -> None:
        """A body is written for all shapes."""


def tensor_info(name: str, shape: Sequence[int] | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """The declaration of an input or output; without a shape, of any rank."""
    return helper.make_tensor_value_info(name, dtype, shape)
