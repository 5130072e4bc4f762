"""What ends the program from outside: Ctrl-C, kill and a closed terminal end it alike, cleanly and in one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

WORDS = "stopped; no file or folder is half-written: each is as it was, or new and whole"
_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop(KeyboardInterrupt):
    """A signal asked the program to end: every block that cleans up runs, then `code` is what it exits with."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


_raised: list[Stop] = []


def asked() -> Stop | None:
    """The signal that asked the program to end, whatever became of its exception on the way; None without one."""
    return _raised[-1] if _raised else None


def words() -> str:
    """What an interrupted program says: WORDS, and what was kept of its work."""
    return "; ".join([WORDS, *getattr(asked(), "__notes__", ())])


def code_of(error: BaseException) -> int:
    """The exit code of an interrupted program, as shells have it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, Stop):
        cause = cause.__context__  # Typer makes an exit of an interrupt
    return cause.code if cause is not None else 128 + signal.SIGINT


def end_at_once() -> None:
    """While nothing has been done yet, as during imports, a signal ends the process in one line."""
    _install(_end)


def raise_stops() -> None:
    """From here on a signal raises Stop in the main thread; a second one of its kind kills."""
    _raised.clear()
    _install(_raise)


def _install(handler: object) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # Python lets no other thread do this
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or started in the background
            signal.signal(number, handler)  # type: ignore[arg-type]


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.write(f"error: {WORDS}\n")
    sys.stderr.flush()
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
    _raised.append(Stop(number))
    raise _raised[-1]
