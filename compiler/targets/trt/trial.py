"""Loads an engine in a process of its own first: what is damaged, or of another version, may end the process that tries it.

The child exits with 0 when it loads.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from onnxgraft.errors import TargetError
from onnxgraft.targets.trt.child import command_of, how_it_ended
from onnxgraft.targets.trt.devices import no_gpu
from onnxgraft.targets.trt.dialect import DIALECTS, Dialect
from onnxgraft.targets.trt.messages import collected, logger_of, tidy

SECONDS = 300.0
REFUSED = 3  # exit code: the runtime said no, in words on stderr


def try_engine(dialect: Dialect, path: Path, command: Sequence[str] = ()) -> None:
    """Load the engine in a child; returns when that went well.

    Args:
        dialect: whose engine it is.
        path: the engine.
        command: what is run instead of this module.

    Raises:
        TargetError: no GPU answers, it does not load, ends the process that loads it, or takes longer than SECONDS.
    """
    reason = no_gpu()
    if reason and not command:
        raise TargetError(f"engine {path} cannot run here: {reason}")
    words = command or command_of(__name__, dialect.module, str(path))
    try:
        ended = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"engine {path}: did not load within {SECONDS:.0f} s") from error
    if ended.returncode == 0:
        return
    if ended.returncode < 0:
        name = how_it_ended(ended.returncode)
        raise TargetError(
            f"engine {path}: {dialect.label} crashed when it loaded it ({name}): damaged, or built by another version; "
            "build it again"
        )
    said = " ".join(ended.stderr.split()) if ended.returncode == REFUSED else f"exit code {ended.returncode}"
    raise TargetError(f"engine {path} does not load on this GPU: {said[-300:] or 'no reason given'}")


def main(module: str, path: str) -> None:
    """Load the engine at `path`; `module` names the package that built it."""
    dialect = next(d for d in DIALECTS if d.module == module)
    if no_gpu():
        sys.stderr.write(str(no_gpu()))
        sys.exit(REFUSED)
    trt = dialect.load()
    with collected(trt) as log:
        if dialect.registers_plugins:
            trt.init_libnvinfer_plugins(logger_of(trt), "")
        if trt.Runtime(logger_of(trt)).deserialize_cuda_engine(Path(path).read_bytes()) is None:
            sys.stderr.write(tidy(log.errors[0]) if log.errors else "no reason given")
            sys.exit(REFUSED)
