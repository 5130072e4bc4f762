"""Tensors under construction with the operators of maths: one algebra over two back ends.

`onnxgraft.ir.builder.Builder` adds the nodes to a graph that passes rewrite, `onnxgraft.plugins.builder.Builder` to the
body of a plugin. A formula is the same for both:

    size = boxes[..., 2:4] - boxes[..., 0:2]
    smallest = size.amin(-1)
    scores = where(smallest > 0.0, scores, constant("never", -1.0))

Python floats become float32 constants, Python ints int64 constants; arrays keep their dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx

Operand = Any
"""Value | Constant | float | int | sequence of those | numpy.ndarray, and what the back end itself calls a tensor."""

_INT64_MAX = np.iinfo(np.int64).max


class Backend(Protocol):
    """Where the nodes of a formula go. A handle is what the back end calls a tensor."""

    def emit(self, op: str, inputs: Sequence[Operand], attrs: Mapping[str, Any], hints: Sequence[str]) -> list[Any]:
        """Add one node and return the handles of its outputs: one per hint, named after it; "" leaves the name open."""

    def rename(self, handle: Any, hint: str) -> None:
        """Name the output of a node, and the node with it."""

    def label(self, handle: Any) -> str:
        """The ONNX name of a tensor."""

    def shape(self, handle: Any) -> Sequence[int | str] | None:
        """The dimensions of a tensor, those that vary by name; None where not even their number is known."""


@dataclass(frozen=True)
class Constant:
    """A constant operand with a name of its own: made anew, by the back end, each time it is used."""

    hint: str
    values: Any

    def array(self) -> np.ndarray:
        return as_array(self.values)


def constant(hint: str, values: Any) -> Constant:
    """A named constant: Python floats (also in lists) become float32, Python ints int64, arrays keep their dtype."""
    return Constant(hint, values)


def as_array(values: Any) -> np.ndarray:
    """A constant operand as an array: float32 for Python floats, int64 for Python ints, else the array's own dtype."""
    array = np.asarray(values)
    if isinstance(values, (np.ndarray, np.generic)) and not isinstance(values, float):
        return array
    return array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))


class Value:
    """A tensor under construction; arithmetic on it adds nodes to its back end.

    Attributes:
        backend: where nodes are added.
        handle: what the back end calls this tensor.
    """

    __slots__ = ("backend", "handle")
    __array_ufunc__ = None  # numpy scalars on the left defer to the operators below

    def __init__(self, backend: Backend, handle: Any) -> None:
        self.backend = backend
        self.handle = handle

    @property
    def name(self) -> str:
        """The ONNX name."""
        return self.backend.label(self.handle)

    @property
    def shape(self) -> list[int | str]:
        """The dimensions, those that vary by name. Raises ValueError where the back end does not know them."""
        shape = self.backend.shape(self.handle)
        if shape is None:
            raise ValueError(f"the shape of {self.name!r} is not known")
        return list(shape)

    def named(self, hint: str) -> Value:
        """The same value; what has just been computed is called by this name in the graph."""
        self.backend.rename(self.handle, hint)
        return self

    def op(self, kind: str, *inputs: Operand, **attrs: Any) -> Value:
        """An operator with one output of which this value is the first input."""
        return emit(self.backend, kind, self, *inputs, **attrs)

    # -- arithmetic, comparison and logic, with ONNX's broadcasting ----------------------------------------------

    def __add__(self, other: Operand) -> Value:
        return self.op("Add", other)

    def __radd__(self, other: Operand) -> Value:
        return emit(self.backend, "Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.op("Sub", other)

    def __rsub__(self, other: Operand) -> Value:
        return emit(self.backend, "Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.op("Mul", other)

    def __rmul__(self, other: Operand) -> Value:
        return emit(self.backend, "Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        """ONNX Div: truncating for integers."""
        return self.op("Div", other)

    def __rtruediv__(self, other: Operand) -> Value:
        return emit(self.backend, "Div", other, self)

    def __mod__(self, other: Operand) -> Value:
        """ONNX Mod: the sign of the divisor."""
        return self.op("Mod", other)

    def __neg__(self) -> Value:
        return self.op("Neg")

    def __lt__(self, other: Operand) -> Value:
        return self.op("Less", other)

    def __le__(self, other: Operand) -> Value:
        return self.op("LessOrEqual", other)

    def __gt__(self, other: Operand) -> Value:
        return self.op("Greater", other)

    def __ge__(self, other: Operand) -> Value:
        return self.op("GreaterOrEqual", other)

    def __and__(self, other: Operand) -> Value:
        return self.op("And", other)

    def __or__(self, other: Operand) -> Value:
        return self.op("Or", other)

    def __invert__(self) -> Value:
        return self.op("Not")

    def equal(self, other: Operand) -> Value:
        """Elementwise ==, which Python keeps for identity."""
        return self.op("Equal", other)

    def min(self, other: Operand) -> Value:
        """The smaller of two, elementwise."""
        return self.op("Min", other)

    def max(self, other: Operand) -> Value:
        """The larger of two, elementwise."""
        return self.op("Max", other)

    # -- functions of one value ----------------------------------------------------------------------------------

    def abs(self) -> Value:
        return self.op("Abs")

    def ceil(self) -> Value:
        return self.op("Ceil")

    def exp(self) -> Value:
        return self.op("Exp")

    def floor(self) -> Value:
        return self.op("Floor")

    def log(self) -> Value:
        return self.op("Log")

    def relu(self) -> Value:
        return self.op("Relu")

    def sigmoid(self) -> Value:
        return self.op("Sigmoid")

    def sqrt(self) -> Value:
        return self.op("Sqrt")

    def isnan(self) -> Value:
        return self.op("IsNaN")

    def cast(self, dtype: Any) -> Value:
        """In another type: a numpy dtype, or a number of onnx.TensorProto."""
        return self.op("Cast", to=dtype if isinstance(dtype, int) else element_type(dtype))

    # -- shapes; `hint` names the constant that the operator reads -----------------------------------------------

    def reshape(self, *shape: int, hint: str = "shape", **attrs: Any) -> Value:
        """Other dimensions: 0 keeps one, -1 takes what is left."""
        return self.op("Reshape", constant(hint, np.array(shape, np.int64)), **attrs)

    def transpose(self, *perm: int) -> Value:
        return self.op("Transpose", perm=list(perm))

    def unsqueeze(self, *axes: int, hint: str = "axes") -> Value:
        """New dimensions of 1 at these axes of the result."""
        return self.op("Unsqueeze", constant(hint, np.array(axes, np.int64)))

    def squeeze(self, *axes: int, hint: str = "axes") -> Value:
        """Without these dimensions of 1; without any, where no axis is given."""
        return self.op("Squeeze", *([constant(hint, np.array(axes, np.int64))] if axes else []))

    def sizes(self, **attrs: Any) -> Value:
        """The shape at run time, int64 [rank]; `start` and `end` select of it."""
        return self.op("Shape", **attrs)

    def __getitem__(self, key: Any) -> Value:
        """Slices with whole-number bounds and steps: `x[..., 0:2]`, `x[:, 1:]`."""
        keys = key if isinstance(key, tuple) else (key,)
        rank = len(self.backend.shape(self.handle) or ())
        chosen: list[tuple[int, slice]] = []
        for place, part in enumerate(keys):
            if part is Ellipsis or part == slice(None):
                continue
            if not isinstance(part, slice):
                raise TypeError(f"cannot index with {part!r}: take slices here, and numbers with `take`")
            behind = Ellipsis in keys[:place]
            axis = place - len(keys) + rank if behind else place
            chosen.append((axis, part))
        starts = [part.start or 0 for _, part in chosen]
        ends = [_INT64_MAX if part.stop is None else part.stop for _, part in chosen]
        operands = [constant("start", starts), constant("end", ends), constant("axis", [axis for axis, _ in chosen])]
        if any(part.step not in (None, 1) for _, part in chosen):
            operands.append(constant("step", [part.step or 1 for _, part in chosen]))
        return self.op("Slice", *operands)

    # -- selection and reduction ---------------------------------------------------------------------------------

    def take(self, index: Operand, axis: int = 0) -> Value:
        """Gather along `axis`; an int drops the axis, an array keeps it."""
        return self.op("Gather", index, axis=axis)

    def take_along(self, index: Operand, axis: int) -> Value:
        """GatherElements: one element along `axis` for each of `index`."""
        return self.op("GatherElements", index, axis=axis)

    def take_nd(self, index: Operand, batch_dims: int = 0) -> Value:
        """GatherND: the last dimension of `index` counts through those of this value, behind `batch_dims` shared ones."""
        return self.op("GatherND", index, **({"batch_dims": batch_dims} if batch_dims else {}))

    def topk(self, k: Operand, hints: Sequence[str] = ("", ""), **attrs: Any) -> tuple[Value, Value]:
        """(values, int64 indices) of the k largest along `axis`, by default the last; k is int64 [1]."""
        best, index = self.backend.emit("TopK", [self, k], attrs, hints)
        return Value(self.backend, best), Value(self.backend, index)

    def amax(self, *axes: int, keepdims: bool = False, hint: str = "axes") -> Value:
        return self.op("ReduceMax", constant(hint, np.array(axes, np.int64)), keepdims=int(keepdims))

    def amin(self, *axes: int, keepdims: bool = False, hint: str = "axes") -> Value:
        return self.op("ReduceMin", constant(hint, np.array(axes, np.int64)), keepdims=int(keepdims))

    def sum(self, *axes: int, keepdims: bool = False, hint: str = "axes") -> Value:
        return self.op("ReduceSum", constant(hint, np.array(axes, np.int64)), keepdims=int(keepdims))


def emit(backend: Backend, op: str, *inputs: Operand, **attrs: Any) -> Value:
    """An operator with one output, its name left open."""
    (handle,) = backend.emit(op, inputs, attrs, [""])
    return Value(backend, handle)


def where(condition: Value, yes: Operand, no: Operand) -> Value:
    """`yes` where the condition holds, else `no`, elementwise."""
    return condition.op("Where", yes, no)


def concat(*values: Operand, axis: int) -> Value:
    """The operands one behind the other along `axis`; one of them at least is a Value."""
    backend = next(value.backend for value in values if isinstance(value, Value))
    return emit(backend, "Concat", *values, axis=axis)


def element_type(dtype: Any) -> int:
    """The number that onnx.TensorProto gives to a numpy dtype."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
