"""The process that runs one build: an engine that ends it ends nothing else. It answers with JSON on its last line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.files import plain
from onnxgraft.golden.references import Answer, answers
from onnxgraft.runtime.comparison import MatchReport, match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import Session
from onnxgraft.targets.trt.engine_runner import EngineRunner
from onnxgraft.targets.trt.timing import times
from onnxgraft.tools.selftest.results import Latency, Measured
from onnxgraft.tools.verify import TOLERANCES, Tolerance

_LEAST = 5  # counted runs
_MAP = 0.01  # mean error of a map's logits that is still the same in fp32, as the golden graphs are tested


def main(run: str, model: str, engine: str, seconds: str, pictures: str) -> None:
    """Run the build in the folder `run` of the golden graph `model`, compare it and time it."""
    print("\n" + json.dumps(plain(measured(Path(run), model, engine, float(seconds), int(pictures))), default=float))


def measured(run: Path, model: str, engine: str, seconds: float, pictures: int) -> Measured:
    """Compare a build with the stored answers and time it.

    Args:
        run: the build folder.
        model: the golden graph.
        engine: "required" for the engine, "onnxruntime" for ONNX Runtime.
        seconds: how long each way of running it is timed.
        pictures: how many it is compared on, at most.
    """
    session = Session(run, engine=engine)
    tolerance, compared, feeds = TOLERANCES[session.manifest.precision], [], None
    for answer in answers(model, pictures):
        boxes = None if answer.proposals is None else [answer.proposals]
        feeds = session.feeder([answer.image], boxes)
        found = from_outputs(session.run_feeds(feeds), session.manifest.io)
        compared.append(compare(answer, found, tolerance))
    assert feeds is not None, f"{model} has no stored answers"
    share, words, _ = min(compared, key=lambda one: (one[2], one[0]))
    runner = session.runner
    if isinstance(runner, EngineRunner):
        rounds, notes = times(runner, feeds, seconds)
    else:
        rounds, notes = {"copies": _rounds(lambda: session.run_feeds(feeds), seconds)}, []
    latencies = {how: Latency.of(each) for how, each in rounds.items()}
    ran = f"the engine {session.manifest.engine}" if engine == "required" else f"ONNX Runtime, {session.manifest.runnable}"
    return Measured(ran, len(compared), share, words, all(same for *_, same in compared), latencies, tuple(notes))


def _rounds(run: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each run."""
    run()
    found: list[float] = []
    until = time.perf_counter() + seconds
    while len(found) < _LEAST or time.perf_counter() < until:
        started = time.perf_counter()
        run()
        found.append((time.perf_counter() - started) * 1000)
    return found


def compare(answer: Answer, found: Detections, tolerance: Tolerance) -> tuple[float, str, bool]:
    """(share of the answer's detections found again, the comparison in words, whether it is within the tolerance)."""
    boxes = replace(found, heatmaps=None, semantic=None)
    report = match(answer.detections, boxes, tolerance.iou, tolerance.score, tolerance.mask)
    same = report.exact if tolerance.share == 1.0 else report.share >= tolerance.share
    words = [str(report)] if len(answer.detections) or len(found) else []
    for name, errors, magnitude in _maps(answer, found, report):
        limit = _MAP if tolerance.share == 1.0 else tolerance.logits * magnitude
        same = same and errors <= limit
        words.append(f"{name} {errors:.2g} on average")
    return report.share, ", ".join(words), bool(same)


def _maps(answer: Answer, found: Detections, report: MatchReport) -> list[tuple[str, float, float]]:
    """(name, mean error, largest magnitude) of the maps that the answer has; a missing one is infinitely wrong."""
    maps = []
    if answer.heatmaps is not None:
        pairs = [(a, b) for a, b in report.pairs[: report.matched] if a < len(answer.heatmaps)]
        errors = [_error(answer.heatmaps[a], None if found.heatmaps is None else found.heatmaps[b]) for a, b in pairs]
        if errors or found.heatmaps is None:
            maps.append(("heatmaps", max(errors, default=np.inf), float(np.abs(answer.heatmaps).max())))
    if answer.semantic is not None:
        maps.append(("semantic logits", _error(answer.semantic, found.semantic), float(np.abs(answer.semantic).max())))
    return maps


def _error(stored: NDArray[np.float32], given: NDArray[np.float32] | None) -> float:
    return float(np.abs(stored - given).mean()) if given is not None and given.shape == stored.shape else np.inf
