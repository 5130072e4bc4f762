"""Builds an engine in a process of its own: the same bytes whatever its caller has in memory, and one line when it dies.

NVIDIA's RTX builder orders the outputs of an engine by their place in memory, so what was allocated before it counts.
The child reads its request from stdin, a pickle, and answers on stdout with another; it ends when stdin is closed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxgraft.errors import InputError, OnnxgraftError, TargetError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.engine_info import EngineInfo
from onnxgraft.targets.trt.builder import build
from onnxgraft.targets.trt.dialect import DIALECTS, Dialect

_START = "import sys; sys.path[:] = {path!r}; from {module} import main; main({arguments})"


@dataclass(frozen=True)
class Request:
    """What is to be built; see `builder.build`."""

    module: str
    target: str
    model: Path
    engine: Path
    options: BuilderOptions
    provenance: Mapping[str, str]


def command_of(module: str, *arguments: str) -> list[str]:
    """What runs `module.main(*arguments)` in a new Python that imports from where this one does, and from nowhere else."""
    code = _START.format(path=sys.path, module=module, arguments=", ".join(map(repr, arguments)))
    return [sys.executable, "-I", "-W", "ignore", "-c", code]


def how_it_ended(number: int) -> str:
    """The name of the signal that ended a child, or the exit code."""
    if number >= 0:
        return f"exit code {number}"
    return signal.Signals(-number).name if -number in list(signal.Signals) else f"signal {-number}"


class Building:
    """An engine that a child is building, from the moment this is made.

    Args:
        dialect: whose builder does it.
        request: what is to be built.
        words: what is run instead of this module.
    """

    def __init__(self, dialect: Dialect, request: Request, words: list[str] | None = None) -> None:
        self._dialect = dialect
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._child = subprocess.Popen(
            words or command_of(__name__),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=os.name == "posix",
        )  # fmt: skip
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):  # `wait` tells of a child that is dead already
            self._child.stdin.write(pickle.dumps(request))
            self._child.stdin.flush()

    def wait(self) -> EngineInfo:
        """What the builder tells of the engine.

        Raises:
            InputError, TargetError: what the builder raised, or that it ended without an answer.
        """
        assert self._child.stdout is not None
        answer = self._child.stdout.read()
        code = self._child.wait()
        if code != 0 or not answer:
            self._said.seek(0)
            last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
            reason = last[-300:] or "no reason given"
            raise TargetError(f"{self._dialect.label} ended while it built an engine ({how_it_ended(code)}): {reason}")
        built = pickle.loads(answer)
        if isinstance(built, EngineInfo):
            return built
        raise built

    def stop(self) -> None:
        """End the child, whatever it is doing, and what is left of it."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._said):
            with contextlib.suppress(OSError):  # a request that a dead child never read
                stream.close()  # type: ignore[union-attr]


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Build what stdin asks for."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the builder's own words are no answer
    request: Request = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    dialect = next(d for d in DIALECTS if d.module == request.module)
    answer: EngineInfo | OnnxgraftError
    try:
        answer = build(dialect, request.target, request.model, request.engine, request.options, request.provenance)
    except (InputError, TargetError) as error:
        answer = error
    answers.write(pickle.dumps(answer))
    answers.close()
    os._exit(0)  # nothing is left to be done, and NVIDIA's libraries need not be unloaded
