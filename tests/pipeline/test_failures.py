"""Passes that corrupt the graph are caught, named, and leave a folder from which the failure replays."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.cli import assert_one_line_error, cli
from helpers.pages import data_of
from helpers.small_models import BAD, MODEL

from onnxgraft import Context, Graph, Options, PassError, compile
from onnxgraft.instruments import Reproducer
from onnxgraft.passes.default import parse_pipeline
from onnxgraft.report.reader import read_run

FAULTS = [
    ("throws", "ZeroDivisionError.*bad_passes.py:"),
    ("lies", "says that it provides 'static-input', but input 'image' has the shape"),
    ("cycle", "cycle"),
    ("dangling", "reads tensor 'nowhere', which nothing makes"),
    ("duplicate-name", "features"),
    ("wrong-dtype", "Conv"),
    ("deletes-output", "lost the graph's output 'scores'"),
    ("changes-weight", "changed the values of weight"),
    ("repeat(flips)", "still changes the graph after 4 rounds, in flips: it never converges"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


def fail(model: Path, fault: str) -> tuple[Path, PassError]:
    options = Options(passes=f"simplify,{fault}", load=(str(BAD),), target="onnxruntime", engine=False)
    with pytest.raises(PassError) as caught:
        compile(model, model.parent / "out", options)
    return model.parent / "out.reproducer", caught.value


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_fault_is_caught_and_named(model: Path, fault: str, message: str) -> None:
    folder, error = fail(model, fault)
    name = fault.partition("(")[0]
    assert error.pass_name == name
    assert re.search(message, error.reason), error.reason
    assert not (model.parent / "out").exists()
    told = json.loads((folder / "reproducer.json").read_text())
    assert told["pass"] == name
    assert told["versions"]["onnx"]
    assert (folder / "pipeline.txt").read_text().strip() == f"simplify,{fault}"
    before = onnx.load(folder / "before.onnx")
    onnx.checker.check_model(before)
    assert [node.op_type for node in before.graph.node] == ["Conv", "Relu", "Sigmoid"]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_report_of_a_failed_build_opens(model: Path, fault: str, message: str) -> None:
    folder, error = fail(model, fault)
    run = read_run(folder)
    assert [row.name for row in run.passes] == ["simplify", error.pass_name]
    assert run.passes[0].changed
    assert run.passes[-1].error
    assert "</html>" in (folder / "report.html").read_text()


def test_a_user_sees_one_line(model: Path) -> None:
    words = ["--passes", "simplify,duplicate-name", "--load", BAD, "--target", "onnxruntime", "-o", "out"]
    assert_one_line_error(cli("build", model, *words, cwd=model.parent), "pass 'duplicate-name'", "[replay: out.reproducer/")


def test_an_older_reproducer_is_replaced(model: Path) -> None:
    fail(model, "repeat(flips)")
    folder, _ = fail(model, "throws")
    assert [row.name for row in read_run(folder).passes] == ["simplify", "throws"]
    assert not list((folder / "passes").glob("*repeat*"))


@pytest.mark.parametrize("fault", ["throws", "changes-weight", "repeat(flips)"])
def test_replay_fails_in_the_same_way(model: Path, fault: str) -> None:
    folder, error = fail(model, fault)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    replay = subprocess.run([folder / "replay.sh"], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert replay.returncode == 1
    same = error.reason.partition(" [replay")[0]
    assert f"pass {error.pass_name!r}: {' '.join(same.split())}" in replay.stderr
    assert not (folder / "replayed").exists()


def test_replay_forgets_no_option(model: Path) -> None:
    """What the failed build was asked for, but for what its pipeline's text says, and calibration where nothing needs it."""
    options = Options(
        passes="simplify,throws", load=(BAD,), target="onnxruntime", precision="bf16", sidecar=model, engine=False,
        skip=("flips",), calib=Path("images"), calib_method="percentile", calib_percentile=99.5, calib_images=3,
    )  # fmt: skip
    reproducer = Reproducer(model.parent / "left", model, options)
    graph, ctx = Graph.load(model), Context()
    for text, words in (
        ("simplify", ["--precision", "bf16", "--target", "onnxruntime", "--sidecar", str(model), "--load", str(BAD)]),
        ("quantize", ["--precision", "bf16", "--calib", str(Path("images").absolute()), "--calib-method", "percentile",
                      "--calib-percentile", "99.5", "--calib-images", "3", "--target", "onnxruntime", "--sidecar", str(model),
                      "--load", str(BAD)]),
    ):  # fmt: skip
        (step,) = parse_pipeline(text).passes
        reproducer.before(step, graph, ctx)
        reproducer.failed(step, graph, ctx, PassError(step.name(), "planted"))
        command = json.loads((model.parent / "left" / "reproducer.json").read_text())["command"]
        assert shlex.split(command)[8:] == words


SHIFT = """
from dataclasses import dataclass
from onnxgraft import Builder, Pass, Role

@dataclass(frozen=True, kw_only=True)
class ShiftBoxes(Pass):
    '''Move every box by three pixels.'''
    def run(self, graph, ctx):
        old = graph.tensor(ctx.values.results[Role.BOXES])
        b = Builder(graph, "shift")
        new = b.op("Add", [old, b.floats("by", [3.0])], "boxes", shape=old.shape)
        graph.gs.outputs[:] = [new if t is old else t for t in graph.gs.outputs]
        old.name, new.name = graph.fresh("old_boxes"), old.name
"""


def test_replay_of_a_numeric_check_fails_too(golden_model: Path, scene: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "shift.py").write_text(SHIFT)
    passes = (
        "upgrade-opset,simplify,fix-input{height=256,width=320},normalize-input,inject-anchors,decode-boxes,rpn-nms,"
        "roi-align,box-nms,shift-boxes"
    )
    options = Options(passes=passes, load=(tmp_path / "shift.py",), engine=False)
    with pytest.raises(PassError, match="'shift-boxes': changes the detections: 0 of"):
        compile(golden_model, tmp_path / "out", options, images=[scene])
    replay = cli(*shlex.split((tmp_path / "out.reproducer" / "replay.sh").read_text().partition("onnxgraft ")[2]),
                 cwd=tmp_path / "out.reproducer")  # fmt: skip
    assert_one_line_error(replay, "pass 'shift-boxes': changes the detections: 0 of")
    listed = cli("diff", tmp_path / "out.reproducer").stdout
    assert re.search(r"box-nms .* (\d+)/\1 same, box ", listed)
    assert "failed in shift-boxes: changes the detections: 0 of" in listed
    shown = json.dumps(data_of((tmp_path / "out.reproducer" / "report.html").read_text()))
    assert re.search(r'"check": "(\d+)/\1 same, box ', shown)
