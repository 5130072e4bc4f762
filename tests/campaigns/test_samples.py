"""A sample of each campaign; `make fuzz`, `make fuzz-files` and `make faults` run the whole."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest

from campaigns.fuzz_files import plan, run
from campaigns.fuzz_graphs import COUNTED, FAULTS, Mutant, verdict
from campaigns.long_runs import SLACK, Watch
from campaigns.mutants.changing import CHANGING
from campaigns.mutants.preserving import PRESERVING

KINDS = [
    "model", "structure", "detector", "sidecar", "manifest", "page", "evaluation", "report", "times", "nodes", "calibration",
    "cache", "annotations", "proposals", "image",
]  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they fork and limit memory as Linux does")


def test_hostile_files() -> None:
    verdicts = list(run(7, plan(KINDS, 180)))
    assert len(verdicts) == 180
    assert [verdict for verdict in verdicts if verdict[2] not in ("read", "refused")] == []
    assert {verdict for _, _, verdict in verdicts} == {"read", "refused"}


@pytest.mark.parametrize("leaks", [True, False])
def test_memory_that_is_kept_is_seen(leaks: bool) -> None:
    """What `make long-runs` measures with."""
    watch, kept = Watch("steps", 50), []
    for _ in range(50):
        block = mmap.mmap(-1, 1 << 20)  # pages of its own: a heap may have free ones, which are counted already
        block.write(bytes([1]) * (1 << 20))
        if leaks:
            kept.append(block)
        watch.step()
    assert len(watch.seen) == 50
    assert (watch.growth > SLACK) == leaks


CHANGED = {
    "fast_rcnn_thin": [
        "a class filter", "the first few alone", "columns in another order", "the background first",
        "another scale of a RoiAlign",
        "a suppression across classes or levels", "a head that mixes rows by attention", "a temperature on a layer",
        "another threshold", "plus nothing", "a comparison the other way round", "nodes in another order",
    ],
    "retinanet_thin": [
        "an area filter", "scores calibrated", "a clip's upper bound", "a second suppression", "weights turned round",
        "split and joined",
    ],
    "semantic_fpn_thin": ["semantic logits changed behind their head", "other coordinates of a Resize", "constants as nodes"],
}  # fmt: skip


@pytest.mark.parametrize("base", CHANGED)
def test_changed_detectors(base: str) -> None:
    for kind in CHANGED[base]:
        tries = (verdict(Mutant((base, True), ((kind, str(salt)),))) for salt in range(8))
        found = next((words for words in tries if words.split()[0] in COUNTED), "no mutant that counts")
        allowed = ("agree",) if kind in PRESERVING else ("agree", "refused")
        assert found.startswith(allowed), f"{kind}: {found}"


def test_there_are_enough_kinds_of_changes() -> None:
    assert len(CHANGING) >= 40
    assert len(PRESERVING) >= 25
    assert set(FAULTS) < set(COUNTED)


@pytest.mark.slow
def test_processes_that_end() -> None:
    few = ["--kills", "2", "--signals", "1", "--seed", "2", "--light"]
    words = [sys.executable, "-W", "ignore", "-m", "campaigns.faults", *few]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(words, capture_output=True, text=True, env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith(", 0 faults\n")
