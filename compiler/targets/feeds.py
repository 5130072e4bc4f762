"""What a runner is fed, held against what its network takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxgraft.errors import InputError


def checked_feeds(feeds: Mapping[str, Any], wanted: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, Any]:
    """The inputs as contiguous arrays. Nothing is cast: another dtype is another picture.

    Args:
        feeds: arrays by name.
        wanted: shape and NumPy dtype of every input, by name.

    Raises:
        InputError: one is missing, not known, or has another shape or dtype; names it and says what is wanted.
    """
    for name in feeds:
        if name not in wanted:
            raise InputError(f"there is no input {name!r}: the network takes {', '.join(wanted)}")
    arrays = {}
    for name, (shape, dtype) in wanted.items():
        words = f"{np.dtype(dtype).name} {list(shape)}"
        if name not in feeds:
            raise InputError(f"input {name!r} is missing: the network takes {words}")
        array = np.asarray(feeds[name])
        if array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
            raise InputError(f"input {name!r} is {array.dtype.name} {list(array.shape)}, the network takes {words}")
        arrays[name] = np.ascontiguousarray(array)
    return arrays
