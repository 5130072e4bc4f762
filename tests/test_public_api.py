"""The public face: every name is there, imports are light, and docs need no other name."""

from __future__ import annotations

import importlib.util
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


def test_the_wheel_has_every_package_and_the_golden_graph() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'^    "(onnxgraft[\w.]*)",$', project, re.MULTILINE))
    homes = {"onnxgraft": ROOT / "compiler", "onnxgraft.passes": ROOT / "passes", "onnxgraft.plugins": ROOT / "plugins"}
    found = {
        ".".join([name, *path.parent.relative_to(home).parts])
        for name, home in homes.items() for path in home.rglob("__init__.py")
    }  # fmt: skip
    assert found <= listed, sorted(found - listed)
    assert "onnxgraft.golden_graphs.mask_rcnn" in listed


def test_links_of_the_readme_work_outside_the_repository() -> None:
    place = importlib.util.spec_from_file_location("setup_of_onnxgraft", ROOT / "setup.py")
    assert place is not None
    assert place.loader is not None
    setup = importlib.util.module_from_spec(place)
    place.loader.exec_module(setup)
    shown = setup.for_an_index((ROOT / "README.md").read_text(), (ROOT / "pyproject.toml").read_text())
    links = re.findall(r"\]\(([^)]*)\)", shown)
    assert len(links) > 5
    assert all(link.startswith("https://") for link in links), links
