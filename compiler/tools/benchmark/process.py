"""Measures a function in a new process: its seconds, its peak memory, and what it gives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxgraft.errors import OnnxgraftError

Rows = list[tuple[str, ...]]  # of a table, the heading first
_CHILD = Path(__file__).resolve().with_name("child.py")


@dataclass(frozen=True)
class Measured:
    """What a process measured of itself.

    Attributes:
        seconds: of the work.
        peak_mib: the most memory that the process ever held.
        ready_mib: the most before the work began, all imports and what the work needs being there.
        result: what the work returned.
    """

    seconds: float
    peak_mib: float
    ready_mib: float
    result: Any


def _ended(code: int) -> str:
    """How a process ended that said nothing."""
    if code >= 0:
        return f"its process ended with {code}"
    by = signal.Signals(-code)
    killed = ", as a system does that has no memory left" if by is signal.SIGKILL else ""
    return f"its process was ended by {by.name}{killed}"


def measure(place: str, *arguments: object) -> Measured:
    """Run a function in a new process and measure the work that it returns.

    Args:
        place: "module:function", or "file.py:function" for a module that is loaded without its package. The function gets
            the arguments as text and returns the work, a function without arguments whose result JSON can hold.
        arguments: of the function.

    Raises:
        OnnxgraftError: it failed; with the last line of what it said.
    """
    command = [sys.executable, str(_CHILD), place, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-1:])
        raise OnnxgraftError(f"measuring {place} failed: {said or _ended(done.returncode)}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))
