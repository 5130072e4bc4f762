"""`onnxgraft doctor`: what is here is told, whatever is broken."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest
from helpers.cli import cli
from packaging.requirements import Requirement

from onnxgraft import targets
from onnxgraft.tools import doctor


def test_it_tells_of_every_requirement_and_every_target() -> None:
    done = cli("doctor", "--json", "-")
    found = json.loads(done.stdout)
    needed = [line for line in metadata.requires("onnxgraft") or [] if "extra" not in line]
    versions = {package["name"]: package["version"] for package in found["packages"]}
    for line in needed:
        name = Requirement(line).name
        assert versions.get(name) == metadata.version(name)
    assert [state["name"] for state in found["targets"]] == [name for name in targets.names() if name != "auto"]
    onnxruntime = next(state for state in found["targets"] if state["name"] == "onnxruntime")
    assert onnxruntime["builds"] is None
    assert onnxruntime["runs"] is None
    assert found["chosen"][0] == targets.auto()[0].name
    assert done.returncode == 0
    assert not done.stderr


def test_a_package_that_kills_its_importer_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("import os\nos.abort()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor.examine()
    state = found.targets[0]
    assert state.name == "tensorrt"
    assert "SIGABRT" in str(state.builds) or os.name != "posix"
    assert found.chosen[0] != "tensorrt"
    assert [other.version for other in found.targets[1:]] != ["unknown", "unknown"]
    assert found.sound


def test_a_package_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    state = doctor.examine().targets[0]
    assert "libnvinfer.so.10: cannot open shared object file" in str(state.builds)
    assert state.runs == state.builds


def test_what_is_too_old_is_a_fault() -> None:
    package = doctor._package("numpy", Requirement("numpy>=99"), "")
    assert package.fault == f"is {metadata.version('numpy')}, and >=99 is wanted"
    assert doctor._package("no-such-thing", Requirement("no-such-thing"), "").fault == "is not installed"
    assert not doctor._package("no-such-thing", Requirement("no-such-thing"), "some-extra").fault


def test_the_table_keeps_brackets() -> None:
    done = cli("doctor")
    if "the module tensorrt is not installed" in done.stdout:
        assert "pip install 'onnxgraft[tensorrt]'" in done.stdout.partition("runs here")[2].partition("--target auto")[0]
