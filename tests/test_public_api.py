"""The public face: every name is there, imports are light, and docs need no other name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnxgraft

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("onnxruntime", "cv2", "jinja2", "numpy", "onnx", "rich", "typer")


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], check=True, capture_output=True, text=True
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize("name", onnxgraft.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(onnxgraft, name)
    assert value.__name__ == name
    assert value.__doc__
    assert value.__module__.startswith("onnxgraft.")


def test_what_type_checkers_read_is_what_there_is() -> None:
    text = (ROOT / "compiler" / "__init__.py").read_text()
    typed = re.findall(r"from onnxgraft\.([\w.]+) import (\w+) as (\w+)$", text, re.MULTILINE)
    assert sorted(name for _, name, _ in typed) == onnxgraft.__all__
    assert all(name == shown for _, name, shown in typed)
    for module, name, _ in typed:
        assert getattr(onnxgraft, name) is getattr(__import__(f"onnxgraft.{module}", fromlist=[name]), name)
    assert (ROOT / "compiler" / "py.typed").is_file()


@pytest.mark.parametrize("code", ["import onnxgraft", "import onnxgraft.errors", "import onnxgraft.options"])
def test_imports_are_light(code: str) -> None:
    assert not loaded_by(code) & set(HEAVY)


def test_help_loads_what_it_prints_alone() -> None:
    code = "from onnxgraft.cli.main import app\napp(['build', '--help'], standalone_mode=False)"
    assert not loaded_by(code) & (set(HEAVY) - {"typer"})


def test_version_dir_and_unknown_names() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", onnxgraft.__version__)
    assert set(onnxgraft.__all__) < set(dir(onnxgraft))
    with pytest.raises(AttributeError, match="has no attribute 'Request'"):
        onnxgraft.Request  # noqa: B018


def test_python_m() -> None:
    done = subprocess.run([sys.executable, "-m", "onnxgraft", "--version"], capture_output=True, text=True)
    assert done.stdout == f"onnxgraft {onnxgraft.__version__}\n"


@pytest.mark.parametrize("page", ["custom-passes.md", "new-architecture.md"])
def test_tutorials_use_public_names_only(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert re.findall(r"from onnxgraft import", text)
    assert not re.findall(r"(?:from|import) onnxgraft\.", text)
    for names in re.findall(r"^from onnxgraft import (.*)$", text, re.MULTILINE):
        assert set(names.split(", ")) <= set(onnxgraft.__all__)
