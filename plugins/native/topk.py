"""TopK beyond the largest k that TensorRT takes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxgraft.ir.value import Value, concat

TOP_K_LIMIT = 3840
"""Largest k of TensorRT's TopK."""


def top_k(values: Value, rows: int, k: int) -> tuple[Value, Value]:
    """The k largest of each row of float32 [rows, n], sorted, [rows, k], with int32 indices; k may exceed 3840.

    Beyond the limit the winners are overwritten and the rest is searched again.
    """
    parts: list[tuple[Value, Value]] = []
    while True:
        step = min(k, TOP_K_LIMIT)
        best, place = values.topk([step], axis=-1)
        parts.append((best, place.cast(TensorProto.INT32)))
        k -= step
        if not k:
            break
        hidden = np.full((rows, step), -np.inf, np.float32)
        values = values.op("ScatterElements", place, hidden, axis=1)
    if len(parts) == 1:
        return parts[0]
    return concat(*(best for best, _ in parts), axis=1), concat(*(place for _, place in parts), axis=1)
