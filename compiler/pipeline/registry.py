"""Passes by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from onnxgraft.errors import InputError
from onnxgraft.pipeline.base import Pass

ENTRY_POINTS = "onnxgraft.passes"


class Registry:
    """Passes by name: the built-in ones, those of installed packages, and files given with --load."""

    def __init__(self, passes: Iterable[type[Pass]] = ()) -> None:
        self._passes: dict[str, type[Pass]] = {}
        for kind in passes:
            self.add(kind)

    def add(self, kind: type[Pass]) -> None:
        self._passes[kind.name()] = kind

    def __getitem__(self, name: str) -> type[Pass]:
        if name not in self._passes:
            near = difflib.get_close_matches(name, self._passes, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._passes)}"
            raise InputError(f"there is no pass {name!r}; {hint}")
        return self._passes[name]

    def __iter__(self) -> Iterator[type[Pass]]:
        return iter(self._passes.values())


def load_file(path: Path) -> list[type[Pass]]:
    """The Pass classes that a Python file defines. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file to load passes from")
    name = f"onnxgraft_loaded_{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        # not by importlib, which leaves bytecode beside the file, and takes it for the file when both are of one second
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except Exception as error:
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Pass) and v.__module__ == name]
    if not found:
        raise InputError(f"{path}: defines no Pass")
    return found
