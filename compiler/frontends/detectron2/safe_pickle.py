"""Reads pickles of plain numbers. A pickle is a program; this runs none: it makes dictionaries, lists and arrays only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
ALLOWED = frozenset(
    {(module, name) for module in _MULTIARRAY for name in ("_reconstruct", "scalar")}
    | {(module, "_frombuffer") for module in _NUMERIC}
    | {("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict"), ("_codecs", "encode")}
)
"""What arrays are made by; none of these runs code or touches files."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module, name)


def read(path: str | Path) -> Any:
    """What a pickle of numbers holds.

    Raises:
        pickle.UnpicklingError: it is none, or asks for something else than numbers; says for what.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return _Reader(file, encoding="latin1").load()
