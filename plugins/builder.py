"""Writes ONNX nodes as expressions: the maths of a plugin body stays readable.

A `Value` is the name of a tensor; arithmetic on values adds nodes. Python floats become float32
constants, Python ints int64 constants, arrays keep their dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Operand = Any  # Value | float | int | np.ndarray | np.generic

_REFERENCES = {
    AttributeProto.FLOAT: "value_float",
    AttributeProto.INT: "value_int",
    AttributeProto.INTS: "value_ints",
}


_References = dict[str, tuple[str, AttributeProto.AttributeType]]


class Value:
    """A tensor under construction; `name` is its ONNX name."""

    __array_ufunc__ = None  # numpy scalars on the left defer to the operators below

    def __init__(self, builder: Builder, name: str) -> None:
        self.builder = builder
        self.name = name

    def __add__(self, other: Operand) -> Value:
        return self.builder.op("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.builder.op("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.builder.op("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.builder.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.builder.op("Mul", self, other)

    def __truediv__(self, other: Operand) -> Value:
        """ONNX Div: truncating for integers."""
        return self.builder.op("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.builder.op("Div", other, self)

    def __lt__(self, other: Operand) -> Value:
        return self.builder.op("Less", self, other)

    def __le__(self, other: Operand) -> Value:
        return self.builder.op("LessOrEqual", self, other)

    def __gt__(self, other: Operand) -> Value:
        return self.builder.op("Greater", self, other)

    def __ge__(self, other: Operand) -> Value:
        return self.builder.op("GreaterOrEqual", self, other)

    def __and__(self, other: Value) -> Value:
        return self.builder.op("And", self, other)

    def __or__(self, other: Value) -> Value:
        return self.builder.op("Or", self, other)

    def __invert__(self) -> Value:
        return self.builder.op("Not", self)

    def equal(self, other: Operand) -> Value:
        return self.builder.op("Equal", self, other)

    def cast(self, dtype: int) -> Value:
        return self.builder.op("Cast", self, to=dtype)

    def reshape(self, *shape: int) -> Value:
        return self.builder.op("Reshape", self, np.array(shape, np.int64))

    def unsqueeze(self, *axes: int) -> Value:
        return self.builder.op("Unsqueeze", self, np.array(axes, np.int64))

    def take(self, index: Operand, axis: int = 0) -> Value:
        """Gather along `axis`; an int drops the axis, an array keeps it."""
        return self.builder.op("Gather", self, index, axis=axis)


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
        return Value(self, name)

    def here(self, value: Value) -> Value:
        """The outer value, so that operators on it add nodes to this body."""
        return Value(self, value.name)

    def op(self, op_type: str, *inputs: Operand, **attributes: Any) -> Value:
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: Operand, outputs: int, **attributes: Any) -> list[Value]:
        operands = [self._operand(value) for value in inputs]
        stem = self.fresh(op_type)
        names = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, operands, names, name=stem, **attributes))
        return [Value(self, name) for name in names]

    def referring(
        self, op_type: str, *inputs: Operand, references: _References, **attrs: Any
    ) -> Value:
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
        array = np.asarray(value)
        if isinstance(value, float):
            array = array.astype(np.float32)
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

    def where(self, condition: Value, yes: Operand, no: Operand) -> Value:
        return self.op("Where", condition, yes, no)

    def concat(self, *values: Operand, axis: int) -> Value:
        return self.op("Concat", *values, axis=axis)

    def rename(self, value: Value, name: str) -> None:
        """Give the value a fixed name (an output of the graph or function)."""
        self.nodes.append(helper.make_node("Identity", [value.name], [name], name=f"{name}_out"))

    def graph(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        return helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)

    def _operand(self, value: Operand) -> str:
        return value.name if isinstance(value, Value) else self.constant(value).name

    def fresh(self, stem: str) -> str:
        """A name that no other tensor or node of this builder or its bodies has."""
        self._counter[0] += 1
        return f"{stem}_{self._counter[0]}"


def tensor_info(
    name: str, shape: Sequence[int] | None, dtype: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)
