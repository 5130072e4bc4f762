"""The command line in forks of one process that has imported it: a start of Python and its imports take two seconds.

The server of a test session imports what commands import and nothing else runs in it, neither threads nor sessions; each
command is a fork of it, in which the program starts as it does from a shell.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

SERVER = "from helpers.forking import serve; serve(); from onnxgraft.cli.main import main; main()"
PRELOADED = (
    "onnxgraft.cli.main", "onnxgraft.driver.compile", "onnxgraft.tools.infer", "onnxgraft.tools.verify",
    "onnxgraft.tools.inspect", "onnxgraft.tools.bisect", "onnxgraft.tools.evaluate", "onnxgraft.quantization.calibrate",
)  # fmt: skip
_VARYING = "PYTEST_CURRENT_TEST"


def environment() -> dict[str, str]:
    """What a command sees of the environment, as it is now."""
    return {name: value for name, value in os.environ.items() if name != _VARYING}


class Server:
    """A process that forks commands.

    Attributes:
        environment: that it was started in; commands with another one need a process of their own.
    """

    def __init__(self) -> None:
        self.environment = environment()
        path = os.pathsep.join([str(Path(__file__).parents[1]), *(p for p in sys.path if p)])
        self._process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         env={**os.environ, "PYTHONPATH": path})  # fmt: skip

    def run(self, arguments: list[str], cwd: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command. Raises subprocess.TimeoutExpired."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            places = {name: os.path.join(folder, name) for name in ("out", "err")}
            request = {"arguments": arguments, "cwd": cwd, "path": os.environ.get("PYTHONPATH"), **places}
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], seconds)[0]:
                self.close()
                raise subprocess.TimeoutExpired(arguments, seconds)
            code = int(self._process.stdout.readline())
            said = [Path(place).read_text() for place in places.values()]
        return subprocess.CompletedProcess(arguments, code, *said)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def serve() -> None:
    """Fork a process for each request; returns in the fork, which is then the command's."""
    for name in PRELOADED:
        importlib.import_module(name)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    for line in iter(requests.readline, b""):
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line), requests, answers)
            return
        _, status = os.waitpid(pid, 0)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(status))
        answers.flush()
    os._exit(0)


def _become(request: dict[str, Any], requests: BinaryIO, answers: BinaryIO) -> None:
    """Let this process have the folder, the streams and the arguments of a command."""
    os.chdir(request["cwd"])
    for name, number, flags in (("", 0, os.O_RDONLY), ("out", 1, os.O_WRONLY), ("err", 2, os.O_WRONLY)):
        place = os.open(request[name] if name else os.devnull, flags | (os.O_CREAT if name else 0), 0o600)
        os.dup2(place, number)
        os.close(place)
    if request["path"] is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = request["path"]
    sys.argv[1:] = request["arguments"]
