"""Interrupts, names that are no text, and locales: one line each, and nothing in the way of the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from helpers.small_models import MODEL

from onnxgraft.cli.stops import WORDS

BUILD = ["--passes", "upgrade-opset,simplify", "--target", "onnxruntime"]
START = "from onnxgraft.cli.start import main; main()"
STOPPED = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits that it is ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)

class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Stop())
sys.argv[1:] = ["passes"]
{start}
"""


@pytest.mark.parametrize("module", ["onnxgraft.options", "onnxgraft.passes.default"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_modules_are_imported(how: signal.Signals, module: str) -> None:
    code = STOPPED.format(module=module, number=int(how), start=START)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (128 + how, f"error: {WORDS}\n")


SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
"""


def test_a_signal_that_became_another_error(tmp_path: Path) -> None:
    """Extension modules that are interrupted while they are imported say so."""
    (tmp_path / "mine.py").write_text(SWALLOWS)
    words = [sys.executable, "-c", START, "passes", "--load", tmp_path / "mine.py"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (143, f"error: {WORDS}\n")


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup has it."""
    code = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom onnxgraft.cli import stops\n"
    code += "stops.end_at_once(); stops.raise_stops(); os.kill(os.getpid(), signal.SIGHUP); print('on')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "on\n"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_that_are_no_text(locale: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"a\xff b")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "m.onnx")
    os.rename(tmp_path / "m.onnx", folder / os.fsdecode(b"m\xfe.onnx"))
    env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = [sys.executable, "-c", START]
    build = [*code, "build", folder / os.fsdecode(b"m\xfe.onnx"), *BUILD, "-o", folder / os.fsdecode(b"o\xfd")]
    ended = subprocess.run(build, capture_output=True, env=env)
    assert (ended.returncode, ended.stderr) == (0, b""), ended.stderr
    for words in (["diff", folder / os.fsdecode(b"o\xfd")], ["report", folder / os.fsdecode(b"o\xfd")]):
        ended = subprocess.run([*code, *words], capture_output=True, env=env)
        assert (ended.returncode, ended.stderr) == (0, b""), ended.stderr
