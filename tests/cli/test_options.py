"""Commands and their declared options: help in groups, what is offered where, and options that have no effect."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli import cli

from onnxgraft.cli.main import app, main
from onnxgraft.golden import catalog
from onnxgraft.options import Options, declared


def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["onnxgraft", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capfd.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize("command", ["build", "bisect", "calibrate", "inspect", "passes"])
def test_a_command_offers_what_is_declared_for_it(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capfd, monkeypatch, command, "--help")
    assert code == 0
    own = {"calibrate": "images"}.get(command)  # the command's own of that name: a folder
    for option in [o for o in declared(Options) if o.name != own]:
        offered = re.search(rf"^  {option.flag}\b", out, re.MULTILINE) is not None
        assert offered == (command in option.opt.on.split()), option.flag
        if offered:
            group = out[: out.index(f"\n  {option.flag}")].split("\n\n")[-1].splitlines()[0]
            assert group == f"{option.opt.group}:", option.flag


def test_help_names_choices_defaults_and_examples(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run(capfd, monkeypatch, "build", "--help")
    words = " ".join(out.split())
    assert "--precision fp32|fp16|bf16|int8 Type of the network. [fp32]" in words
    assert "--size HEIGHTxWIDTH Canvas of the input, multiples of 32, or the export's own. [1344x1344]" in words
    assert out.endswith("onnxgraft build model.onnx --precision int8 --calib pictures/\n")
    _, out, _ = run(capfd, monkeypatch, "bisect", "--help")
    assert "[onnxruntime]" in out


def test_the_list_of_commands_has_whole_summaries(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run(capfd, monkeypatch, "--help")
    assert "..." not in out.partition("Commands:")[2]
    assert "exits with 1 when they differ, or when nothing was compared." in " ".join(out.split())


NOTHING = f"'nothing' is neither a file nor a golden graph (golden graphs: {', '.join(catalog.names())})"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("build mask_rcnn --calib images", "--calib has no effect here: give --precision int8"),
        ("build mask_rcnn --calib-images 5 --precision fp16", "--calib-images has no effect here: give --precision int8"),
        ("build mask_rcnn --keep-fp16 rpn", "--keep-fp16 has no effect here: give --precision int8"),
        ("build mask_rcnn --keep-fp32 rpn", "--keep-fp32 has no effect here: give --precision fp16 or bf16"),
        ("build mask_rcnn --no-proof --images a.png", "--images has no effect here: give --proof or --check-numerics"),
        ("build mask_rcnn --passes simplify --batch 2", "--batch has no effect here: give a pipeline with fix-input"),
        ("build mask_rcnn --passes simplify,fix-input --batch 2",
         "--batch has no effect beside --passes: write it into the pipeline, in fix-input{...}"),
        ("bisect mask_rcnn --check true --images a.png", "--images has no effect here: give --check parity"),
        ("bisect mask_rcnn --check true --calib images", "--calib has no effect here: give --precision int8"),
        ("calibrate mask_rcnn --method mse", "--method has no effect here: give --tensorrt-cache"),
        ("calibrate mask_rcnn --percentile 99", "--percentile has no effect here: give --method percentile"),
        ("bench out --model mask_rcnn", "--model has no effect on a build folder: leave out one of the two"),
        ("bench --size 64x96", "--size has no effect here: give --precision"),
        ("bench out --masks", "--masks has no effect on a build folder: leave out one of the two"),
        ("bench --masks --precision", "--precision has no effect with --masks: leave out one of the two"),
        ("bench out --pictures 8", "--pictures has no effect here: give --end-to-end"),
        ("bench --calib-images 0", "--calib-images has no effect here: give --precision"),
        ("bench --repeat 0", "--repeat is 0: give 1 or more"),
        ("infer out a.png --min-score 2", "--min-score is 2: give 0 to 1"),
        ("infer out a.png --engine trt", "--engine: 'trt' is not one of auto, onnxruntime, required"),
        ("verify out --engine trt", "--engine: 'trt' is not one of auto, onnxruntime, required"),
        ("eval out --engine trt", "--engine: 'trt' is not one of auto, onnxruntime, required"),
        ("eval out --limit 0", "--limit is 0: give 1 or more"),
        ("build some.onnx --precision int8", "some.onnx: no such file"),
        ("sensitivity nothing", NOTHING),
        ("eval nothing", NOTHING),
        ("inspect nothing", NOTHING),
        ("sensitivity out --accuracy-budget 2", "--accuracy-budget is 2: give 0 to 1"),
    ],
)  # fmt: skip
def test_refused(command: str, reason: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run(capfd, monkeypatch, *command.split())
    assert (code, out, err) == (1, "", f"error: {reason}\n")


COMMANDS = [c.name for c in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = run(capfd, monkeypatch, command, "--help")
    example = out.partition("Examples:")[2].split()
    assert example[:2] == ["onnxgraft", command]


def test_completion() -> None:
    """As a shell asks for it."""
    code = "import sys; sys.argv = ['onnxgraft']; from onnxgraft.cli.main import app; app(prog_name='onnxgraft')"
    asked = {"_ONNXGRAFT_COMPLETE": "complete_bash", "COMP_WORDS": "onnxgraft inf", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked})
    assert done.stdout.split() == ["infer"], done.stderr
    shown = cli("--show-completion", "bash") if os.name == "nt" else cli("--help")
    assert "--install-completion" in shown.stdout


def test_no_word_of_a_heading_is_cut() -> None:
    code = "from onnxgraft.cli.console import show; show([('layer', 'keypoint AP', 'accuracy')] + [('x' * 70, '1', '2')] * 2)"
    for columns in ("40", "80"):
        environment = {**os.environ, "COLUMNS": columns}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert all(word in done.stdout for word in ("layer", "keypoint", "AP", "accuracy", "x" * 70)), done.stdout


def test_quiet_and_verbose(tmp_path: Path) -> None:
    words = ("build", "mask_rcnn", "--target", "onnxruntime", "--size", "96x96", "--no-proof", "--no-checks", "-o")
    quiet = cli(*words, tmp_path / "o", "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    verbose = cli(*words, tmp_path / "o", "-v")
    assert " s  box-nms\n" in verbose.stderr
    assert "passes ran without checks" in verbose.stdout


def test_version() -> None:
    assert re.fullmatch(r"onnxgraft \d+\.\d+\.\d+\n", cli("--version").stdout)
