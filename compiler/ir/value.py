"""Tensors under construction with the operators of maths: one algebra over two back ends.

`onnxgraft.ir.builder.Builder` adds the nodes to a graph that passes rewrite, `onnxgraft.plugins.builder.Builder` to the
body of a plugin. A formula is the same for both:

    size = boxes[..., 2:4] - boxes[..., 0:2]
    smallest = size.amin(-1)
    scores = where(smallest > 0.0, scores, constant("never", -1.0))

Python floats become float32 constants, Python ints int64 constants; arrays keep their dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    def rename(self, handle: Any, hint: str) -> Any:
        """Name the output of a node, and the node with it; returns its handle from now on."""

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
        """The operand, in its shape, with the dtype that `as_array` gives it."""
        return as_array(self.values)


def constant(hint: str, values: Any) -> Constant:
    """A named constant: Python floats (also in lists) become float32, Python ints int64, arrays keep their dtype."""
    return Constant(hint, values)


def as_array(values: Any) -> np.ndarray:
    """A constant operand of any shape as an array: float32 for Python floats, int64 for ints, else the array's own dtype."""
    array = np.asarray(values)
    if isinstance(values, (np.ndarray, np.generic)) and not isinstance(values, float):
        return array
    return array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))


def _unary(op: str) -> Callable[[Value], Value]:
    def apply(self: Value) -> Value:
        return self.op(op)

    return apply


def _binary(op: str) -> Callable[[Value, Operand], Value]:
    def apply(self: Value, other: Operand) -> Value:
        return self.op(op, other)

    return apply


def _reflected(op: str) -> Callable[[Value, Operand], Value]:
    def apply(self: Value, other: Operand) -> Value:
        return emit(self.backend, op, other, self)

    return apply


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
        return Value(self.backend, self.backend.rename(self.handle, hint))

    def op(self, kind: str, *inputs: Operand, **attrs: Any) -> Value:
        """An operator with one output of which this value is the first input."""
        return emit(self.backend, kind, self, *inputs, **attrs)

    # -- arithmetic, comparison and logic, elementwise with ONNX's broadcasting ----------------------------------

    __add__, __radd__ = _binary("Add"), _reflected("Add")
    __sub__, __rsub__ = _binary("Sub"), _reflected("Sub")
    __mul__, __rmul__ = _binary("Mul"), _reflected("Mul")
    __truediv__, __rtruediv__ = _binary("Div"), _reflected("Div")  # truncates for integers
    __mod__ = _binary("Mod")  # the sign of the divisor
    __lt__, __le__ = _binary("Less"), _binary("LessOrEqual")
    __gt__, __ge__ = _binary("Greater"), _binary("GreaterOrEqual")
    __and__, __or__, __invert__ = _binary("And"), _binary("Or"), _unary("Not")
    __neg__ = _unary("Neg")
    equal = _binary("Equal")  # == is Python's, for identity
    min, max = _binary("Min"), _binary("Max")

    # -- functions of one value ----------------------------------------------------------------------------------

    abs, ceil, floor = _unary("Abs"), _unary("Ceil"), _unary("Floor")
    exp, log, sqrt = _unary("Exp"), _unary("Log"), _unary("Sqrt")
    relu, sigmoid = _unary("Relu"), _unary("Sigmoid")
    isnan = _unary("IsNaN")

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
        """The largest along these axes; opset 18 or later."""
        return self._reduce("ReduceMax", axes, keepdims, hint)

    def amin(self, *axes: int, keepdims: bool = False, hint: str = "axes") -> Value:
        """The smallest along these axes; opset 18 or later."""
        return self._reduce("ReduceMin", axes, keepdims, hint)

    def sum(self, *axes: int, keepdims: bool = False, hint: str = "axes") -> Value:
        """The sum along these axes."""
        return self._reduce("ReduceSum", axes, keepdims, hint)

    def _reduce(self, op: str, axes: Sequence[int], keepdims: bool, hint: str) -> Value:
        return self.op(op, constant(hint, np.array(axes, np.int64)), keepdims=int(keepdims))


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
