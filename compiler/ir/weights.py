"""Weights that stay in the file they came from until the graph is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnxgraft.ir.serde import Weight


class MappedArray(np.ndarray):
    """A read-only array over a weight's bytes in its file; remembers where they stand."""

    weight: Weight | None = None

    @staticmethod
    def open(weight: Weight, dtype: np.dtype, shape: Sequence[int]) -> MappedArray:
        array = weight.map().view(dtype).reshape(shape).view(MappedArray)
        array.weight = weight
        return array


class MappedValues(LazyValues):
    """graphsurgeon's lazy values over a weight that stays in its file."""

    def __init__(self, tensor: onnx.TensorProto, weight: Weight) -> None:
        super().__init__(tensor)
        self.weight = weight

    def load(self) -> np.ndarray:
        """The array [*dims] in the initializer's dtype, read when its elements are."""
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.tensor.data_type)
        return MappedArray.open(self.weight, dtype, tuple(self.tensor.dims))


def weight_of(tensor: gs.Constant) -> Weight | None:
    """Where a constant's bytes stand, or None when they live in memory."""
    values = tensor._values
    if isinstance(values, MappedValues):
        return values.weight
    return values.weight if isinstance(values, MappedArray) else None


def is_large(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and weight_of(tensor) is not None
