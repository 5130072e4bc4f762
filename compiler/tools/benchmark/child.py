"""The process in which something is measured; process.py starts it.

Only the standard library is imported here, and then the module of what is measured: nothing else shall count as its memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import time
from pathlib import Path
from typing import Any


def peak_mib() -> float:
    """The most memory that this process held so far, in MiB; 0 where the system does not tell.

    getrusage would do, but Linux starts a process with its parent's peak.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found.group(1)) / 1024 if found else 0.0


def _function(place: str) -> Any:
    module, _, name = place.rpartition(":")
    if not module.endswith(".py"):
        return getattr(importlib.import_module(module), name)
    spec = importlib.util.spec_from_file_location(Path(module).stem, module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def _main(place: str, *arguments: str) -> None:
    work = _function(place)(*arguments)
    ready = peak_mib()
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib(), "ready_mib": ready, "result": result}))


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules are onnxgraft's
    _main(*sys.argv[1:])
