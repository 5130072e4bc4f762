"""The command line in a process of its own."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from helpers.forking import Server, environment

HANGS = 1800  # seconds after which a command hangs, however busy the machine


def cli(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    words = list(map(str, arguments))
    if sys.platform == "linux" and _server().environment == environment():
        return _server().run(words, str(cwd or os.getcwd()), HANGS)
    command = [sys.executable, "-c", "from onnxgraft.cli.main import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=HANGS)


@cache
def _server() -> Server:
    server = Server()
    atexit.register(server.close)
    return server


def assert_one_line_error(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """A refusal as a user should see it: exit code, one line, no traceback; the line holds all the words."""
    lines = result.stderr.splitlines()
    assert result.returncode not in (0, None), (result.returncode, result.stdout)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    for word in words:
        assert word in lines[0], lines[0]
