"""An engine is loaded by a child first: whatever becomes of the child, the user gets one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onnxgraft.errors import TargetError
from onnxgraft.targets.trt import devices
from onnxgraft.targets.trt.dialect import DIALECTS, TENSORRT
from onnxgraft.targets.trt.engine_runner import EngineRunner
from onnxgraft.targets.trt.trial import try_engine

CRASHED = "TensorRT crashed when it loaded it ({}): damaged, or built by another version; build it again"
no_gpu_here = pytest.mark.skipif(devices.no_gpu() is None, reason="a GPU answers")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", CRASHED.format("SIGSEGV")),
        ("import os; os.abort()", CRASHED.format("SIGABRT")),
        ("import sys; sys.stderr.write('Version\\n tag'); sys.exit(3)", "does not load on this GPU: Version tag"),
        ("raise SystemExit(1)", "does not load on this GPU: exit code 1"),
    ],
)  # fmt: skip
def test_what_a_child_leaves(code: str, reason: str) -> None:
    with pytest.raises(TargetError) as refused:
        try_engine(TENSORRT, Path("e.engine"), (sys.executable, "-c", code))
    assert str(refused.value).removeprefix("engine e.engine: ").removeprefix("engine e.engine ") == reason


def test_a_child_that_loads_it() -> None:
    try_engine(TENSORRT, Path("e.engine"), (sys.executable, "-c", ""))


@no_gpu_here
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.module)
def test_nothing_is_loaded_before_a_gpu_answers(dialect: object, tmp_path: Path) -> None:
    """tensorrt's runtime ends the process that asks it for an engine where no driver is."""
    (tmp_path / "e.engine").write_bytes(b"ftrt" + bytes(100))
    with pytest.raises(TargetError, match="no NVIDIA GPU answers on this machine"):
        try_engine(TENSORRT, tmp_path / "e.engine")
    if dialect.missing() is None:  # type: ignore[attr-defined]
        with pytest.raises(TargetError, match="no NVIDIA GPU answers on this machine"):
            EngineRunner(dialect, tmp_path / "e.engine")  # type: ignore[arg-type]
