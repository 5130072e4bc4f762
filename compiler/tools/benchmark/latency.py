"""Latencies: of a build beside its export, and of one network in ONNX Runtime in several precisions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxgraft.atomic import scratch
from onnxgraft.driver.plan import check_images
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog
from onnxgraft.instruments.stage import feeder
from onnxgraft.ir.graph import Graph
from onnxgraft.options import Options, Size
from onnxgraft.passes import IntegerKernels, Quantize
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.quantization.calibrate import Prepared, prepare
from onnxgraft.quantization.dataset import drawn
from onnxgraft.quantization.ranges import Provider
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.session import Session
from onnxgraft.targets import OrtRunner
from onnxgraft.tools.benchmark.process import Rows, measure

Times = dict[str, list[float]]  # milliseconds of each counted round, by what ran
_EXPORT, _PLAIN = "export in ONNX Runtime", "compiled fp32"


def latency(run: Path, repeat: int = 5, progress: Callable[[str], None] = lambda _: None) -> Rows:
    """A table: milliseconds of a build (in the engine, or in ONNX Runtime where it cannot run) and of its export."""
    Session(run)  # tells here what is wrong with it
    progress(f"{run}, {repeat} rounds")
    times: Times = measure(f"{__name__}:of_build", run, repeat).result
    rows: Rows = [("what", "ms (median)", "fastest", "slowest")]
    rows += [(n, f"{statistics.median(t):.1f}", f"{min(t):.1f}", f"{max(t):.1f}") for n, t in times.items()]
    if len(times) == 2:
        ours, theirs = times.values()
        rows.append(("build / export", f"{_ratio(ours, theirs):.2f}", "", ""))
    return rows


def latencies(
    model: str, repeat: int = 5, size: tuple[int, int] = (1344, 1344), progress: Callable[[str], None] = lambda _: None
) -> Rows:
    """A table: milliseconds in ONNX Runtime of the raw export, and compiled in fp32 and int8, run in turn.

    `size` is height and width of the canvas; the export runs beside them where it has that size.
    """
    catalog.resolve(model, CACHE)
    progress(f"fp32 and int8, {repeat} rounds")
    times: Times = measure(f"{__name__}:of_precisions", model, repeat, *size).result
    rows: Rows = [("ONNX Runtime", "ms (median)", "fastest", "to compiled fp32")]
    for name, found in times.items():
        rows.append((name, f"{statistics.median(found):.0f}", f"{min(found):.0f}", f"{_ratio(found, times[_PLAIN]):.2f}"))
    return rows


def of_build(run: str, repeat: str) -> Callable[[], Times]:
    """The rounds of `latency`."""
    session = Session(run)
    manifest = session.manifest
    (image,) = check_images(manifest.source.model, [], session.canvas)
    feeds = session.feeder([image])
    runtime = "its engine" if manifest.engine and not session.notice else "ONNX Runtime"
    subjects: dict[str, Callable[[], Any]] = {f"build in {runtime}": lambda: session.run_feeds(feeds)}
    export = catalog.resolve(manifest.source.model, CACHE)
    given = _export_feeder(export)
    if session.batch == 1 and given.io.image.canvas == session.canvas:
        runner, tensors = OrtRunner(export), given([image])
        subjects[_EXPORT] = lambda: runner(tensors)
    return lambda: _in_turn(subjects, int(repeat))


def of_precisions(model: str, repeat: str, height: str, width: str) -> Callable[[], Times]:
    """The rounds of `latencies`."""
    size = int(height), int(width)
    image = drawn(1)[0].load()[: size[0], : size[1]]
    export = catalog.resolve(model, CACHE)
    subjects: dict[str, Callable[[], Any]] = {}
    given = _export_feeder(export)
    if given.io.image.canvas == size:
        subjects["raw export"] = _once(OrtRunner(export), given([image]))
    for precision in ("fp32", "int8"):
        prepared = prepare(model, Options(size=Size(*size)))
        if precision == "int8":
            _quantize(prepared, model)
        with scratch() as folder:
            prepared.graph.save(folder / "model.onnx")
            runner = OrtRunner(folder / "model.onnx")
        subjects[f"compiled {precision}"] = _once(runner, feeder(prepared.graph, prepared.ctx)([image]))
    return lambda: _in_turn(subjects, int(repeat))


def _export_feeder(export: Path) -> Feeder:
    return feeder(Graph.load(export), Context())


def _once(runner: OrtRunner, feeds: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: runner(feeds)


def _quantize(prepared: Prepared, model: str) -> None:
    prepared.ctx.range_source = Provider(model, CACHE, limit=1)  # scales do not change the time
    manager = PassManager([Quantize(), IntegerKernels()], fingerprints=False, given=prepared.ctx.facts)
    manager.run(prepared.graph, prepared.ctx)


def _in_turn(subjects: Mapping[str, Callable[[], Any]], repeat: int) -> Times:
    times: Times = {name: [] for name in subjects}
    for round_ in range(repeat + 1):  # the first round warms up
        for name, run_once in subjects.items():
            started = time.perf_counter()
            run_once()
            if round_:
                times[name].append((time.perf_counter() - started) * 1000)
    return times


def _ratio(times: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, base, strict=True))
