"""The house's rules of imports: they go down only, without circles, absolutely, and at the top of a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"onnxgraft": ROOT / "compiler", "onnxgraft.passes": ROOT / "passes", "onnxgraft.plugins": ROOT / "plugins"}

# Each room may import the rooms of the lines above its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "atomic"),
    ("files",),
    ("detector",),
    ("options", "manifest"),
    ("ir",),
    ("plugins",),
    ("targets", "pipeline"),
    ("analysis", "runtime"),
    ("passes", "instruments", "golden", "report"),
    ("evaluation",),
    ("quantization",),
    ("proof",),
    ("driver",),
    ("deploy",),
    ("tools",),
    ("cli",),
    ("__main__",),
)
FORBIDDEN = {
    ("passes", "targets"), ("passes", "runtime"), ("runtime", "ir"), ("pipeline", "passes"),
}  # fmt: skip
PLAIN_DATA = {"targets.traits", "targets.releases"}  # how targets and their releases differ, for passes to ask
FRONTENDS = {"errors", "files", "options"}
ROOT_MODULES = 5
MODULE_LINES, FUNCTION_LINES = 250, 50
LAZY = ("cli", "frontends.detectron2", "targets.trt", "quantization.distributed", "")  # may import inside functions


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name below onnxgraft, file) of every module of the package."""
    for name, folder in ROOMS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*name.split(".")[1:], *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(modules())
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def imported(node: ast.AST) -> list[str]:
    """The modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    found = []
    for name in names:
        if name.partition(".")[0] != "onnxgraft":
            continue
        below = name.partition(".")[2]
        while below and below not in MODULES:
            below = below.rpartition(".")[0]
        found.append(below)
    return found


def edges() -> Iterator[tuple[str, str]]:
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            for target in imported(node):
                if target != module and module:
                    yield module, target


def test_every_room_has_a_layer() -> None:
    known = {name for layer in LAYERS for name in layer} | {"frontends", ""}
    assert {room(module) for module in MODULES} <= known


def test_imports_go_down() -> None:
    height = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for module, target in edges():
        a, b = room(module), room(target)
        if a == b:
            continue
        down = b in FRONTENDS if a == "frontends" else a == "cli" if b == "frontends" else height[a] > height.get(b, 99)
        if not down or ((a, b) in FORBIDDEN and target not in PLAIN_DATA and module != "passes.default"):
            wrong.append(f"{module} -> {target}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_no_circles() -> None:
    arrows: dict[str, set[str]] = {}
    for module, target in edges():
        if module.rpartition(".")[0] != target:  # a package's face is imported by its own modules' import alone
            arrows.setdefault(module, set()).add(target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for target in sorted(arrows.get(module, ())):
            visit(target, (*path, module))
        done.add(module)

    for module in sorted(arrows):
        visit(module, ())


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_are_absolute_and_at_the_top(module: str) -> None:
    tree = TREES[module]
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    if any(module == lazy or module.startswith(f"{lazy}.") for lazy in LAZY if lazy):
        return
    inner = [
        statement.lineno
        for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for statement in ast.walk(node) if isinstance(statement, (ast.Import, ast.ImportFrom))
    ]  # fmt: skip
    assert not inner, f"{MODULES[module]}: imports inside functions at lines {inner}"


def test_few_modules_at_the_root() -> None:
    found = sorted(path.name for path in ROOMS["onnxgraft"].glob("*.py") if not path.name.startswith("__"))
    assert len(found) <= ROOT_MODULES, found


def test_modules_and_functions_are_short() -> None:
    """A longer one says why in its docstring, with the words "long because"."""
    wrong = []
    for module, tree in TREES.items():
        lines = len(MODULES[module].read_text().splitlines())
        if lines > MODULE_LINES and "long because" not in (ast.get_docstring(tree) or "").lower():
            wrong.append(f"{MODULES[module].relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION_LINES and "long because" not in (ast.get_docstring(node) or "").lower():
                    wrong.append(f"{MODULES[module].relative_to(ROOT)}: {node.name} has {length} lines")
    assert not wrong, "\n".join(wrong)
