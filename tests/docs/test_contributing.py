"""CONTRIBUTING: its rules are those that tests hold, and what it adds to a copy of the package works as printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layers import FRONTENDS, FUNCTION_LINES, LAYERS, MODULE_LINES, MODULES, ROOMS, room

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")}
PACKAGES = {"compiler": "onnxgraft", "passes": "onnxgraft/passes", "plugins": "onnxgraft/plugins"}


def section_diff(name: str) -> str:
    (found,) = re.findall(r"^```diff\n(.*?)^```$", SECTIONS[name], re.MULTILINE | re.DOTALL)
    return str(found)


def apply(diff: str, package: Path) -> list[str]:
    """Apply a unified diff to a copy of the package; returns the changed paths of the repository."""
    paths = []
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        old, new, *hunks = re.split(r"\n(?=\+\+\+ |@@ )", part.rstrip("\n"))
        path = new.removeprefix("+++ b/")
        top, _, below = path.partition("/")
        file = package / PACKAGES[top] / below
        text = file.read_text() if old.startswith("a/") else ""
        for hunk in hunks:
            lines = hunk.split("\n")[1:]
            before = "".join(line[1:] + "\n" for line in lines if line[:1] != "+")
            after = "".join(line[1:] + "\n" for line in lines if line[:1] != "-")
            assert text.count(before) == 1 if before else not text, f"{path}: the page's diff does not fit\n{before}"
            text = text.replace(before, after) if before else after
        file.write_text(text)
        paths.append(path)
    return paths


@pytest.mark.parametrize("name", ["Add a pass", "Add a family", "Add a target", "Add a plugin"])
def test_adding_one_touches_one_folder_and_works(name: str, tmp_path: Path) -> None:
    for source, place in PACKAGES.items():
        shutil.copytree(ROOT / source, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__"))
    assert len({str(Path(path).parent) for path in apply(section_diff(name), tmp_path)}) == 1
    (command, printed), = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```$", SECTIONS[name], re.MULTILINE | re.DOTALL)
    program, *words = shlex.split(command)
    assert program == "python"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "120"}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == printed, done.stderr


def test_the_rules_are_those_that_the_tests_hold() -> None:
    layers = re.findall(r"^\d+\. (`.*`)$", SECTIONS["Rules"], re.MULTILINE)
    assert [tuple(line.strip("`").split("`, `")) for line in layers] == list(LAYERS)
    assert ", ".join(f"`{name}`" for name in sorted(FRONTENDS)) in SECTIONS["Rules"]
    assert f"{MODULE_LINES} lines, a function {FUNCTION_LINES};" in SECTIONS["Rules"]


def test_every_folder_has_its_line() -> None:
    told = set(re.findall(r"^\| `([\w/]+)/` \|", SECTIONS["Where things stand"], re.MULTILINE))
    rooms = {room(name) for name in MODULES if name} - {"passes", "plugins"}
    folders = {f"compiler/{name}" for name in rooms if (ROOMS["onnxgraft"] / name).is_dir()}
    assert told == folders | {"passes", "plugins", "golden_graphs", "tests"}
