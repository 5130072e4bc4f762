"""Runs the cases of a campaign in worker processes that are replaced when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence


def workers(module: str, words: Sequence[str], todo: list[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
    """(kind, number, verdict) of every case; a crash shows by the line that is missing.

    Args:
        module: `python -m module --work` reads lines "kind<tab>number" and prints each with its verdict, tabs between.
        words: more arguments of it.
        todo: the cases; emptied.
    """
    while todo:
        command = [sys.executable, "-W", "ignore", "-m", module, *words, "--work"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as worker:
            assert worker.stdin is not None and worker.stdout is not None  # noqa: PT018
            worker.stdin.write("\n".join(f"{name}\t{case}" for name, case in todo))
            worker.stdin.close()
            for line in worker.stdout:
                name, case, verdict = line.rstrip("\n").split("\t", 2)
                if todo and (name, int(case)) == todo[0]:
                    del todo[0]
                    yield name, int(case), verdict
            code = worker.wait()
        if todo:
            name, case = todo.pop(0)
            yield name, case, "HANG" if code in (-signal.SIGALRM, -signal.SIGPROF) else f"CRASH exit {code}"
