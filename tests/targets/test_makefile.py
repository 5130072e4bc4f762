"""The Makefile's verbs turn their settings into the command line they promise."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell: the settings of a `make test` around these tests do not count."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, env=plain)


def make(*words: str) -> str:
    done = run(*words)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.replace("\\\n", " ").split())


def test_engine_passes_only_what_was_given() -> None:
    shown = make("-n", "engine", "MODEL=mask_rcnn", "PRECISION=int8")
    assert shown.endswith(
        ".venv/bin/onnxgraft build mask_rcnn --precision int8 -o build/mask_rcnn/int8"
    )


def test_engine_passes_every_setting() -> None:
    shown = make(
        *("-n", "engine", "MODEL=some/where/net.onnx", "PRECISION=fp16", "TARGET=auto"),
        *("SIZE=800x1344", "BATCH=4", "CALIB=images", "ARGS=--load my.py"),
    )
    assert shown.endswith(
        "onnxgraft build some/where/net.onnx --precision fp16 -o build/net/fp16 --target auto "
        "--size 800x1344 --batch 4 --calib images --load my.py"
    )


def test_help_lists_every_verb() -> None:
    text = make("help")
    for verb in [
        "install",
        "engine",
        "inspect",
        "diff",
        "report",
        "verify",
        "bench",
        "test",
        "lint",
        "lock",
        "clean",
    ]:
        assert f"make {verb} " in text


def test_what_is_installed_is_pinned() -> None:
    pins = re.findall(r"^([a-z0-9-]+)==[^ \n]+(?: ; (.+))?$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pins) == sum(not line.startswith("#") for line in (ROOT / "constraints.txt").read_text().splitlines())
    pinned = {name for name, _ in pins}
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^    "([\w-]+)[>=<]', project, re.MULTILINE)
    wanted += re.findall(r'"([\w-]+)[>=<]', next(line for line in project.splitlines() if line.startswith("test = ")))
    assert len(wanted) > 15
    assert set(wanted) <= pinned
    shown = make("-n", "-W", "constraints.txt", "install")  # again after the file changed
    assert "--constraint constraints.txt" in shown


def test_help_names_no_values_of_options() -> None:
    """They would go stale: onnxgraft build --help has them."""
    text = make("help").partition("Settings:")[0]
    assert not re.findall(r"fp32|fp16|bf16|int8|onnxruntime|tensorrt", text)
    assert "PRECISION=bf16" in make("help", "PRECISION=bf16")


def test_a_machine_without_python_gets_one_line(tmp_path: Path) -> None:
    done = run("install", "PYTHON=", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "error: no Python 3.10 or later with venv was found" in done.stderr
    assert not (tmp_path / "venv").exists()
