"""What texts say of constants and types."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.serde import Weight
from onnxgraft.ir.weights import weight_of
from onnxgraft.ir.wellformed import type_name

_INLINE_VALUES = 8
_DIGEST = 6  # bytes


@lru_cache(maxsize=4096)
def mapped_digest(weight: Weight) -> str:
    found = hashlib.blake2b(digest_size=_DIGEST)
    for chunk in weight.chunks():  # not as a map, whose pages would count as memory of this process
        found.update(chunk)
    return found.hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).data, digest_size=_DIGEST).hexdigest()


@dataclass(frozen=True)
class Value:
    """What is said of a constant: dtype[shape], and its values in text or where they stand in a file, which is read late."""

    head: str
    values: str | Weight

    def __str__(self) -> str:
        return self.head + (self.values if isinstance(self.values, str) else f"#{mapped_digest(self.values)}")


def value_of(tensor: gs.Constant) -> Value:
    """What `value_text` says of a constant; weights in a file are not read yet."""
    head = f"{_dtype_name(np.dtype(tensor.dtype))}{_shape(tensor.shape)}"
    weight = weight_of(tensor)
    if weight is not None:
        return Value(head, weight)
    values = np.asarray(tensor.values)
    if values.size <= _INLINE_VALUES and values.dtype.kind in "fiub":
        return Value(head, f"{{{_few(values.dtype, values.tobytes())}}}")
    if values.size <= _INLINE_VALUES:
        return Value(head, f"{{{', '.join(scalar_text(v) for v in values.ravel())}}}")
    return Value(head, f"#{_digest(values.reshape(-1))}")


def value_text(tensor: gs.Constant) -> str:
    """dtype[shape] and the values of a constant: printed when few, hashed when many."""
    return str(value_of(tensor))


@lru_cache(maxsize=4096)
def _few(dtype: np.dtype, held: bytes) -> str:
    return ", ".join(scalar_text(v) for v in np.frombuffer(held, dtype)) if held else ""


def scalar_text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, (float, np.floating)) else str(value)


def _shape(shape: Any) -> str:
    return "[?]" if shape is None else _dims(tuple(shape))


@lru_cache(maxsize=4096)
def _dims(shape: tuple[Any, ...]) -> str:
    return "[" + ",".join(str(d) if isinstance(d, (int, np.integer)) else "?" for d in shape) + "]"


def type_text(tensor: gs.Tensor) -> str:
    return "?" if tensor.dtype is None else f"{_dtype_name(tensor.dtype)}{_shape(tensor.shape)}"


@lru_cache(maxsize=256)
def _dtype_name(dtype: Any) -> str:
    return f"TensorProto.{type_name(dtype)}" if isinstance(dtype, int) else np.dtype(dtype).name
