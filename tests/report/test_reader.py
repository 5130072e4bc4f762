"""Reading a build back, its diffs on the command line, and diffs of two models that ignore names and order."""

from __future__ import annotations

import random
import re
from pathlib import Path

import onnx
import pytest
from helpers.pages import data_of
from helpers.small_models import MODEL
from rich.console import Console
from typer.testing import CliRunner

from onnxgraft import InputError, Options, compile
from onnxgraft.cli.main import app
from onnxgraft.golden import catalog
from onnxgraft.ir.textdiff import count_lines, model_texts, operators, unified
from onnxgraft.report.reader import read_run
from onnxgraft.tools.diff import show

COLOUR = re.compile(r"\x1b\[")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diffing")
    onnx.save(onnx.parser.parse_model(MODEL), folder / "small.onnx")
    passes = "upgrade-opset,simplify,simplify"
    compile(folder / "small.onnx", folder / "run", Options(passes=passes, target="onnxruntime", engine=False))
    return folder / "run"


def call(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert not COLOUR.search(result.output)
    return result.output


def test_rows_of_a_run(run: Path) -> None:
    read = read_run(run)
    assert [(row.index, row.name, row.changed) for row in read.passes][1:] == [(2, "simplify", True), (3, "simplify", False)]
    row = read[2]
    assert row.ops() == {"Constant": -1, "Identity": -1}
    assert row.seconds is not None
    assert read["simplify"].index == 3
    assert read["02_simplify"] is row
    assert row.stat() == count_lines((run / "passes" / "02_simplify.diff").read_text())
    assert len(row.diff(full=True)) > len(row.diff()) - 20
    with pytest.raises(InputError, match="did you mean 'simplify'"):
        read["simplfy"]


def test_a_pass_that_had_nothing_to_do_is_shown_with_its_reason(run: Path, tmp_path: Path) -> None:
    asked = Options(passes="upgrade-opset,upgrade-opset", target="onnxruntime", engine=False)
    compile(run.parent / "small.onnx", tmp_path / "run", asked)
    reason = "the graph has opset 19"
    assert [row.skipped for row in read_run(tmp_path / "run").passes] == [None, reason]
    assert re.search(rf"2 +upgrade-opset +skipped +\d+ +{reason} ", call("diff", tmp_path / "run"))
    assert f"skipped: {reason}" in call("diff", tmp_path / "run", "2")
    assert data_of((tmp_path / "run" / "report.html").read_text())["passes"][1]["skipped"] == reason


def test_list_of_passes(run: Path) -> None:
    lines = call("diff", run).splitlines()
    assert lines[0].split() == ["pass", "nodes", "operators", "seconds"]
    assert re.match(r"2 +simplify +changed +5 > 3 +-1 Constant, -1 Identity +\d+\.\d\d$", lines[2])
    assert "changed" not in lines[3]


def test_diff_of_a_pass(run: Path) -> None:
    shown = call("diff", run, "2")
    assert shown.startswith("2 simplify: 5 > 3 nodes; -1 Constant, -1 Identity")
    assert "\n-same: float32[1,4,8,8] = Identity(features)\n" in shown
    assert "no change" in call("diff", run, "3")
    assert re.search(r": \d+ lines added, \d+ removed\n$", call("diff", run, "2", "--stat"))
    assert [line.split() for line in call("diff", run, "2", "--ops").splitlines()][1:] == [
        ["Constant", "1", "0", "-1"], ["Identity", "1", "0", "-1"],
    ]  # fmt: skip
    full = call("diff", run, "2", "--full")
    assert "@@ -1,8 +1,6 @@" in full
    assert "\n features: float32[1,4,8,8] = Relu(raw)\n" in full


def test_a_terminal_gets_colours(run: Path) -> None:
    console = Console(force_terminal=True, color_system="standard", width=200)
    with console.capture() as captured:
        for part in show(run, "2"):
            console.print(part)
    assert "\x1b[32m+" in captured.get()
    assert "\x1b[31m-" in captured.get()


def test_bad_input_is_told(run: Path, tmp_path: Path) -> None:
    for words, message in (
        ((tmp_path,), "holds no report.json"),
        ((tmp_path / "none",), "no such build folder or model"),
        ((run / "model.onnx",), "is compared with another one"),
        ((run / "model.onnx", "none.onnx"), "none.onnx: no such model"),
        ((run, "none"), "has no pass 'none'"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, ["diff", *map(str, words)], catch_exceptions=False)


def test_a_build_without_checks_says_so(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "small.onnx")
    options = Options(passes="simplify", target="onnxruntime", engine=False, checks=False)
    compile(tmp_path / "small.onnx", tmp_path / "run", options)
    with pytest.raises(InputError, match="built without checks"):
        read_run(tmp_path / "run")


def test_operators_are_counted_in_subgraphs_too() -> None:
    text = "input x x: float32[2]\ny: ? = If(c)\n  then_branch():\n    z: ? = my.dom::Op(x)\n    return z\noutput y y: ?\n"
    assert operators(text) == {"If": 1, "Op": 1}


def renamed(source: Path, place: Path) -> Path:
    """The same model: every node and tensor has another name, and nodes stand in another valid order."""
    model, dice = onnx.load(source), random.Random(5)

    def rename(graph: onnx.GraphProto, outer: dict[str, str]) -> None:
        names = dict(outer)
        new = lambda name: names.setdefault(name, f"v{dice.getrandbits(60)}") if name else name  # noqa: E731
        for tensor in [*graph.initializer, *graph.input, *graph.value_info]:
            tensor.name = new(tensor.name)
        for node in graph.node:
            node.name = f"n{dice.getrandbits(60)}"
            node.output[:] = [new(name) for name in node.output]
            node.input[:] = [new(name) for name in node.input]
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    rename(attribute.g, names)
        for output in graph.output:
            output.name = new(output.name)

    rename(model.graph, {})
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    others = [node for node in model.graph.node if node.op_type != "Constant"]
    dice.shuffle(constants)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in [*constants, *others]]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    onnx.save(model, place)
    return place


def test_renaming_the_real_detector_is_no_change(golden_model: Path, tmp_path: Path) -> None:
    other = renamed(golden_model, tmp_path / "renamed.onnx")
    assert unified(*model_texts(golden_model, other), "a", "b") == ""
    assert call("diff", golden_model, other, "--stat").endswith(": no change\n")


def test_a_change_under_other_names_is_the_only_one_shown(tmp_path: Path) -> None:
    source = catalog.ROOT / "mask_rcnn" / "model.onnx"
    model = onnx.load(renamed(source, tmp_path / "renamed.onnx"))
    pools = [node for node in model.graph.node if node.op_type == "MaxPool"]
    pools[0].attribute.append(onnx.helper.make_attribute("storage_order", 1))
    relus = [node for node in model.graph.node if node.op_type == "Relu"]
    relus[7].op_type = "Elu"
    onnx.save(model, tmp_path / "changed.onnx")
    diff = unified(*model_texts(source, tmp_path / "changed.onnx"), "a", "b")
    changes = [line for line in diff.splitlines()[2:] if line[0] in "+-"]
    touched = [line[0] + re.findall(r" = (\w+)\(", line)[0] for line in changes]
    assert sorted(touched) == ["+Conv", "+Elu", "+MaxPool", "-Conv", "-MaxPool", "-Relu"]  # the reader of Relu, too
