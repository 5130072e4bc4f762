"""Bisection finds a planted fault, in any place, in O(log n) runs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx.helper
import pytest
from helpers.small_models import BAD, MODEL
from helpers.stages import SEED

from onnxgraft import CompileOptions, InputError, Options
from onnxgraft.golden import scenes
from onnxgraft.passes.default import default_pipeline
from onnxgraft.tools.bisect import Stage, bisect

LENGTH = 16
SIZE = (128, 160)
PASSES = """
from dataclasses import dataclass
import numpy as np
import onnx_graphsurgeon as gs
from onnxgraft import Context, Graph, Pass

@dataclass(frozen=True, kw_only=True)
class AddNode(Pass):
    '''Append one node behind the first output.'''
    op: str = "Abs"
    def run(self, graph: Graph, ctx: Context) -> None:
        old = graph.gs.outputs[0]
        new = gs.Variable(old.name, old.dtype, old.shape)
        old.name = graph.fresh("inner")
        graph.gs.nodes.append(gs.Node(self.op, graph.fresh(self.op), {}, [old], [new]))
        graph.gs.outputs[0] = new
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    (tmp_path / "add_node.py").write_text(PASSES)
    return path


def planted(model: Path, fault: int) -> Options:
    steps = ["add-node{op=Neg}" if i == fault else "add-node" for i in range(1, LENGTH + 1)]
    return Options(passes=",".join(steps), load=(str(model.parent / "add_node.py"),), target="onnxruntime")


def no_neg(stage: Stage) -> bool:
    return all(node.op_type != "Neg" for node in stage.skeleton.model.graph.node)


@pytest.mark.parametrize("fault", range(1, LENGTH + 1))
def test_fault_is_found_wherever_it_is(model: Path, fault: int) -> None:
    found = bisect(model, no_neg, planted(model, fault))
    assert (found.index, found.spec) == (fault, "add-node{op=Neg}")
    assert len(found.runs) <= 2 + 4  # both ends, and log2 of 16


def test_command_gets_the_file(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "check.py"
    script.write_text("import onnx, sys\nsys.exit(any(n.op_type == 'Neg' for n in onnx.load(sys.argv[1]).graph.node))\n")
    found = bisect(model, f"{sys.executable} {script} {{}}", planted(model, 11), keep=tmp_path / "kept")
    assert found.index == 11
    assert found.before is not None
    assert found.after is not None
    before, after = onnx.load(found.before), onnx.load(found.after)
    assert len(after.graph.node) == len(before.graph.node) + 1
    assert "pass 11 'add-node'" in str(found)


def test_unchanging_passes_cost_no_run(model: Path) -> None:
    steps = ",".join(["nothing-at-all"] * 30 + ["add-node{op=Neg}"] + ["nothing-at-all"] * 30)
    found = bisect(model, no_neg, Options(passes=steps, load=(str(BAD), str(model.parent / "add_node.py"))))
    assert found.index == 31
    assert len(found.runs) == 2


def test_good_and_bad_ends_are_told(model: Path) -> None:
    with pytest.raises(InputError, match="fails on the model before any pass"):
        bisect(model, lambda stage: False, planted(model, 3))
    with pytest.raises(InputError, match="nothing to find"):
        bisect(model, lambda stage: True, planted(model, 3))


def test_a_pass_that_raises_is_found(model: Path) -> None:
    steps = Options(passes="simplify,throws", load=(str(BAD),))
    found = bisect(model, lambda stage: True, steps)
    assert found.culprit == "throws"
    assert "ZeroDivisionError" in found.reason


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return scenes.draw(SEED, SIZE)[0]


def test_parity_finds_a_wrong_pass_of_the_real_detector(golden_model: Path, scene: np.ndarray, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    passes = (
        "upgrade-opset,simplify,fix-input{height=128,width=160},normalize-input,inject-anchors,decode-boxes,rpn-nms,"
        "roi-align,box-nms,shift-boxes,mask-head,name-outputs"
    )
    found = bisect(golden_model, "parity", Options(passes=passes, load=(wrong,)), images=[scene])
    assert found.culprit == "shift-boxes"
    assert len(found.runs) <= 6


def test_int8_is_calibrated_and_a_wrong_pass_after_it_is_found(golden_model: Path, scene: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), scene)
    (tmp_path / "wrong.py").write_text(WRONG)
    steps = str(default_pipeline(CompileOptions(precision="int8", size=SIZE), "onnxruntime"))
    asked = Options(calib=tmp_path / "images", calib_method="minmax", load=(tmp_path / "wrong.py",), target="onnxruntime")
    for culprit, text in (("shift-boxes", steps.replace("integer-kernels", "shift-boxes,integer-kernels")),
                          ("shift-boxes", steps.replace("quantize", "shift-boxes,quantize"))):  # fmt: skip
        found = bisect(golden_model, "parity", dataclasses.replace(asked, passes=text), images=[scene])
        assert found.culprit == culprit
    with pytest.raises(InputError, match="the check passes after the last pass"):
        bisect(golden_model, "parity", dataclasses.replace(asked, passes=None, load=(), precision="int8", size=SIZE),
               images=[scene])  # fmt: skip


@pytest.mark.parametrize(
    "tail",
    [
        "box-nms,shift-boxes,mask-head,name-outputs,fp16{emulate=true}",
        "box-nms{score-threshold=0.3},mask-head,shift-boxes,name-outputs",
    ],
)
def test_parity_finds_a_wrong_pass_around_one_that_changes_answers_by_intent(
    golden_model: Path, scene: np.ndarray, tmp_path: Path, tail: str
) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    passes = (
        "upgrade-opset,simplify,fix-input{height=128,width=160},normalize-input,inject-anchors,decode-boxes,rpn-nms,"
        f"roi-align,{tail}"
    )
    found = bisect(golden_model, "parity", Options(passes=passes, load=(wrong,)), images=[scene])
    assert found.culprit == "shift-boxes"


WRONG = """
from dataclasses import dataclass
from onnxgraft import Builder, Context, Graph, Pass, Role

@dataclass(frozen=True, kw_only=True)
class ShiftBoxes(Pass):
    '''Move every box by three pixels.'''
    def run(self, graph: Graph, ctx: Context) -> None:
        old = graph.tensor(ctx.values.results[Role.BOXES])
        b = Builder(graph, "shift")
        new = b.op("Add", [old, b.floats("by", [3.0])], "boxes", shape=old.shape)
        graph.gs.outputs[:] = [new if t is old else t for t in graph.gs.outputs]
        old.name, new.name = graph.fresh("old_boxes"), old.name
"""
