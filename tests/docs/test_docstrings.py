"""Public functions on arrays say which shapes they take and give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = [
    "compiler/analysis", "compiler/detector", "compiler/evaluation", "compiler/golden", "compiler/instruments",
    "compiler/quantization", "compiler/runtime", "passes", "plugins",
]  # fmt: skip
ARRAYS = ("NDArray", "ndarray")


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions of a module and methods of its public classes."""
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        yield from (found for found in inner if isinstance(found, ast.FunctionDef) and not found.name.startswith("_"))


def takes_or_gives_arrays(function: ast.FunctionDef) -> bool:
    given = function.args
    hints = [each.annotation for each in [*given.posonlyargs, *given.args, *given.kwonlyargs]] + [function.returns]
    return any(word in ast.unparse(hint) for hint in hints if hint is not None for word in ARRAYS)


@pytest.mark.parametrize("room", ROOMS)
def test_shapes_are_told(room: str) -> None:
    seen, silent = 0, []
    for path in sorted((ROOT / room).rglob("*.py")):
        for function in filter(takes_or_gives_arrays, public_functions(ast.parse(path.read_text()))):
            seen += 1
            if not re.search(r"\[|\bshape\b", ast.get_docstring(function) or ""):
                silent.append(f"{path.relative_to(ROOT)}:{function.lineno}: {function.name}")
    assert seen
    assert not silent, "\n".join(silent)
