"""The program in a child that has imported everything already, ended by a signal, and what it leaves behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxgraft.cli.main import main as program

CLEAN = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
LINGER = 10.0  # seconds that what a killed process started may go on
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: a signal), what it said on stderr, its seconds, and whether the signal
    that it was sent found it running."""

    code: int
    said: str
    seconds: float
    in_time: bool = False


def child(arguments: Sequence[str], folder: Path, how: signal.Signals | None = None, after: float = 0.0) -> Ended:
    """Run the program in a fork of this process, in `folder`; send it a signal after so many seconds."""
    said = folder / f".stderr{os.getpid()}"
    started = time.monotonic()
    pid = start(arguments, folder, said)
    in_time = False
    if how is not None:
        time.sleep(after)
        in_time = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        os.kill(pid, how)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    ended = Ended(code, said.read_text(errors="replace"), time.monotonic() - started, in_time and code != 0)
    said.unlink()
    return ended


def start(arguments: Sequence[str], folder: Path, said: Path) -> int:
    """The process id of the program in a fork of this process."""
    said.touch()
    pid = os.fork()
    if pid == 0:
        _become(arguments, folder, said)
    return pid


def _become(arguments: Sequence[str], folder: Path, said: Path) -> None:
    try:
        os.chdir(folder)
        out, err = os.open(os.devnull, os.O_WRONLY), os.open(said, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):  # what runs below nohup ignores the second
            signal.signal(number, signal.SIG_DFL)
        sys.argv = ["onnxgraft", *arguments]
        program()
        sys.stdout.flush()
        os._exit(0)
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1 if end.code else 0)
    finally:
        os._exit(99)


def adopt() -> None:
    """From here on what the killed leave running becomes a child of this process, so that `lingering` sees it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def lingering() -> bool:
    """Whether something that a process started goes on LINGER seconds after it; it is killed then."""
    until = time.monotonic() + LINGER
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
        except ChildProcessError:
            return False
    for pid in _children():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return True


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
