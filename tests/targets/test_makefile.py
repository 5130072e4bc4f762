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


RECORDED = " mkdir -p build/ && echo "


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
    assert RECORDED in shown
    assert shown.partition(RECORDED)[0].endswith(
        ".venv/bin/onnxgraft build mask_rcnn --precision int8 -o build/mask_rcnn/int8"
    )


def test_engine_passes_every_setting() -> None:
    shown = make(
        *("-n", "engine", "MODEL=some/where/net.onnx", "PRECISION=fp16", "TARGET=auto"),
        *("SIZE=800x1344", "BATCH=4", "CALIB=images", "ARGS=--load my.py"),
    )
    assert RECORDED in shown
    assert shown.partition(RECORDED)[0].endswith(
        "onnxgraft build some/where/net.onnx --precision fp16 -o build/net/fp16 --target auto "
        "--size 800x1344 --batch 4 --calib images --load my.py"
    )


def test_the_other_verbs_follow_the_last_build(tmp_path: Path) -> None:
    """In a copy of the Makefile, whose .venv is a stand-in that tells what it was asked."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "onnxgraft"
    program.write_text('#!/bin/sh\necho asked "$@"\n')
    program.chmod(0o755)
    (tmp_path / ".venv" / ".installed").write_text("")

    def made(*words: str) -> subprocess.CompletedProcess[str]:
        plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(["make", *words], cwd=tmp_path, capture_output=True, text=True, env=plain)

    nothing = made("diff")
    assert nothing.returncode != 0
    assert "error: build/mask_rcnn/fp32: no build; make engine makes one, RUN=FOLDER names one" in nothing.stderr
    assert made("engine", "MODEL=a/net.onnx", "PRECISION=fp16").returncode == 0
    (tmp_path / "build" / "net" / "fp16").mkdir(parents=True)
    (tmp_path / "build" / "net" / "fp16" / "manifest.json").write_text("{}")
    for verb in ("diff", "verify", "report", "bench"):
        assert made(verb).stdout.split()[:3] == ["asked", verb, "build/net/fp16"]
    other = made("verify", "MODEL=other")
    assert "error: build/other/fp32: no build" in other.stderr
    assert "RUN=FOLDER names one: build/net/fp16" in other.stderr
    assert made("verify", "RUN=build/net/fp16").stdout.split()[-1] == "build/net/fp16"


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


def test_a_tensorrt_of_the_system_can_be_seen(tmp_path: Path) -> None:
    """On Jetson, and in NVIDIA's images, it is no package that pip could install."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    shown = subprocess.run(
        ["make", "-n", "install", "SYSTEM_SITE_PACKAGES=1", "EXTRAS=test", "PYTHON=python3"],
        cwd=tmp_path, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "python3 -m venv --clear --system-site-packages .venv" in shown
    assert "--editable '.[test]'" in shown
    usual = subprocess.run(
        ["make", "-n", "install", "PYTHON=python3"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert "--system-site-packages" not in usual
    assert "--editable '.[rtx,test]'" in usual
