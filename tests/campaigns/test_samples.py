"""A sample of each campaign; `make fuzz-files` and `make faults` run the whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from campaigns.fuzz_files import plan, run

KINDS = [
    "model", "structure", "detector", "sidecar", "manifest", "report", "times", "nodes", "calibration", "cache", "annotations",
    "proposals", "image",
]  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they fork and limit memory as Linux does")


def test_hostile_files() -> None:
    verdicts = list(run(7, plan(KINDS, 180)))
    assert len(verdicts) == 180
    assert [verdict for verdict in verdicts if verdict[2] not in ("read", "refused")] == []
    assert {verdict for _, _, verdict in verdicts} == {"read", "refused"}


@pytest.mark.slow
def test_processes_that_end() -> None:
    few = ["--kills", "3", "--signals", "3", "--seed", "2", "--light"]
    words = [sys.executable, "-W", "ignore", "-m", "campaigns.faults", *few]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(words, capture_output=True, text=True, env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith(", 0 faults\n")
