"""What tests run in a fork of a process that has imported the program is what a shell would run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli import cli


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere tests start a process for each command")
@pytest.mark.parametrize("words", [["inspect", "b\u00e4.onnx"], ["nonsense"]])
def test_a_fork_ends_and_speaks_as_a_process_of_its_own(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from onnxgraft.cli.main import main; main()", *words]
    alone = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    forked = cli(*words, cwd=tmp_path)
    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert forked.returncode != 0
    assert "error" in forked.stderr.lower()
