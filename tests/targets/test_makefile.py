"""The Makefile's verbs turn their settings into the command line they promise."""

from __future__ import annotations

import os
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
        "clean",
    ]:
        assert f"make {verb} " in text


def test_a_machine_without_python_gets_one_line(tmp_path: Path) -> None:
    done = run("install", "PYTHON=", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "error: no Python 3.10 or later with venv was found" in done.stderr
    assert not (tmp_path / "venv").exists()
