"""Measurements run in processes of their own, and the baseline's holds nothing but the `onnx` package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from onnxgraft.errors import OnnxgraftError
from onnxgraft.tools.benchmark.masks import masks
from onnxgraft.tools.benchmark.process import measure
from onnxgraft.tools.benchmark.surgery import BASELINE, SUBJECTS

MEASURED = '''
import importlib.util, os, signal, sys

def packages(path):
    """Which packages the process holds once it has loaded a file."""
    spec = importlib.util.spec_from_file_location("loaded", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return lambda: sorted({name.partition(".")[0] for name in sys.modules})

def held(mib):
    return lambda: sum(bytearray(b"x") * (int(mib) << 20)) // ord("x") >> 20

def failing():
    raise ValueError("it cannot be done")

def killed():
    os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "measured.py"
    path.write_text(MEASURED)
    return path


def test_the_baseline_does_not_import_this_package(measured: Path) -> None:
    found = measure(f"{measured}:packages", SUBJECTS[BASELINE].rpartition(":")[0]).result
    assert "onnx" in found
    assert not {"onnxgraft", "onnxruntime", "cv2"} & set(found)


def test_the_baseline_saves_the_model_and_holds_less_than_surgery_at_its_start(golden_model: Path, tmp_path: Path) -> None:
    plain = measure(SUBJECTS[BASELINE], golden_model, tmp_path)
    assert onnx.load(tmp_path / "model.onnx") == onnx.load(golden_model)
    ours = measure(SUBJECTS["surgery, checks off"], golden_model, tmp_path)
    assert plain.ready_mib < ours.ready_mib - 20


def test_peak_memory_and_results_come_back(measured: Path) -> None:
    found = measure(f"{measured}:held", 100)
    assert found.result == 100
    assert found.peak_mib > found.ready_mib + 90
    assert found.seconds > 0


def test_what_fails_is_told_in_a_line(measured: Path) -> None:
    with pytest.raises(OnnxgraftError, match=r"ValueError: it cannot be done$"):
        measure(f"{measured}:failing")
    with pytest.raises(OnnxgraftError, match=r"failed: its process was ended by SIGKILL, as a system does .*no memory left$"):
        measure(f"{measured}:killed")


def test_masks_are_measured_beside_what_is_installed() -> None:
    heading, *rows = masks(repeat=1, sizes=((60, 80), (33, 20)))
    assert heading[-1] == "same"
    assert [row[:2] for row in rows] == [
        (what, size) for size in ("60x80", "33x20") for what in ("paste", "run lengths", "paste and run lengths", "draw")
    ]
    for row in rows:
        needed = ["pycocotools"] * ("run lengths" in row[0]) + ["detectron2"] * (row[0] != "run lengths")
        missing = [name for name in needed if find_spec(name) is None]
        assert row[3].startswith("absent: " if missing else ("detectron2", "pycocotools", "both"))
        assert all(name in row[3] for name in missing)
        assert row[-1] == ("" if missing or row[0] == "draw" else "yes")
