"""`onnxgraft selftest`: rows that can run here run, the others say why not, and what is done stays done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers.cli import assert_one_line_error, cli

from onnxgraft import targets
from onnxgraft.driver.compile import Build, compile
from onnxgraft.errors import InputError
from onnxgraft.options import Options, Size
from onnxgraft.tools.benchmark.gpus import gpu_named
from onnxgraft.tools.selftest import page, run
from onnxgraft.tools.selftest.results import FILE, Latency, Measured, Record, Result
from onnxgraft.tools.selftest.rows import Row, models, rows

MODEL = "rpn_FPN_thin"
ROW = Row(MODEL, "onnxruntime", "plugin", "fp32")


def test_a_run_and_what_it_leaves(tmp_path: Path) -> None:
    only = ["--only", ROW.key, "--only", f"{MODEL}/tensorrt/native/fp16"]
    first = cli("selftest", "-o", tmp_path, *only, "--seconds", 0.01, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    record = Record.read(tmp_path)
    assert record is not None
    tensorrt, ours = record.rows
    assert ours.key == ROW.key
    assert ours.state == "same"
    assert ours.measured is not None
    assert ours.measured.share == 1.0
    assert ours.measured.latencies["copies"].runs >= 5
    reason = targets.get("tensorrt").available()
    assert (tensorrt.state, tensorrt.reason) == ("not built", reason) if reason else tensorrt.state != "not built"
    text = (tmp_path / page.PAGE).read_text()
    assert ours.measured.words in text
    assert "<script" not in text
    again = cli("selftest", "-o", tmp_path, *only, "--seconds", 0.01, "--json", "-", cwd=tmp_path)
    assert json.loads(again.stdout)["rows"] == json.loads((tmp_path / FILE).read_text())["rows"]
    kept = Record.read(tmp_path)
    assert kept is not None
    assert kept.rows == record.rows, "rows that were done are tested again"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("build")
    options = Options(target="onnxruntime", size=Size(256, 320), checks=False, proof=False)
    return compile(MODEL, folder / "out", options)


def test_a_build_that_breaks_is_a_row_that_says_so(build: Build) -> None:
    path = build.folder / build.manifest.runnable
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        result = run._run(ROW, build, Result(ROW.key, "", "not run"), run.Settings(0.01))
    finally:
        path.write_bytes(whole)
    assert result.state == "BROKEN"
    assert result.bad
    assert "ONNX Runtime cannot load" in result.reason


@pytest.mark.skipif(os.name != "posix", reason="ends a process by a signal")
def test_a_process_that_dies_ends_nothing_else(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text("import os\n\ndef main(*words):\n    os.abort()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(run.child, "__name__", "dying")
    result = run._run(ROW, build, Result(ROW.key, "", "not run"), run.Settings(0.01))
    assert result.state == "BROKEN"
    assert result.reason.startswith("SIGABRT")


def test_another_detectors_answers_differ(build: Build) -> None:
    """The comparison can fail."""
    other = Row("rpn_C4_thin", "onnxruntime", "plugin", "fp32")
    result = run._run(other, build, Result(other.key, "", "not run"), run.Settings(0.01))
    assert result.state in ("DIFFERS", "BROKEN")


def test_rows_are_chosen_by_words() -> None:
    assert {row.model for row in rows()} == set(models())
    assert not any(row.form == "plugin" for row in rows(["tensorrt-rtx"]))
    assert {row.key for row in rows([f"{MODEL}/native/fp16"])} == {
        f"{MODEL}/{target}/native/fp16" for target in targets.names() if target != "auto"
    }
    assert [row.key for row in rows([ROW.key])] == [ROW.key]
    assert rows(["mask_rcnn_R_50_FPN_3x/fp32"]), "a detector of full width is tested when it is named"
    assert models()[0] == "mask_rcnn"
    with pytest.raises(InputError, match="'fp61' is not known; did you mean 'fp16'"):
        rows(["mask_rcnn/fp61"])
    with pytest.raises(InputError, match="no row has all of these words"):
        rows(["tensorrt-rtx/plugin"])


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"rows": 3}')
    done = cli("selftest", "-o", tmp_path, "--only", ROW.key, cwd=tmp_path)
    assert_one_line_error(done, FILE, "-o")


def test_latency() -> None:
    found = Latency.of([float(i) for i in range(1, 201)])
    assert (found.median, found.p99, found.runs) == (100.5, 198.0, 200)


def test_the_share_of_the_floor() -> None:
    latencies = {"engine": Latency(4.0, 5.0, 9), "graph": Latency(2.0, 2.5, 9), "copies": Latency(6.0, 7.0, 9)}
    result = Result("a/b/native/fp16", "", "same", measured=Measured("", 1, 1.0, "", True, latencies), floor_ms=1.5)
    assert result.floor_share == 0.75
    assert page.table(Record({}, (result,)))[1][3:] == ("2.000", "2.500", "6.000", "2.000", "75%")


@pytest.mark.parametrize(
    ("driver", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA GeForce RTX 3060 Ti", None), ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA H200", None),
    ],
)  # fmt: skip
def test_gpus_by_their_drivers_name(driver: str, known: str | None) -> None:
    found = gpu_named(driver)
    assert (found.name if found else None) == known
