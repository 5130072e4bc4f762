"""Finds the pass after which a check fails first, in O(log n) runs of the check."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxgraft.atomic import scratch
from onnxgraft.driver.plan import check_images, pipeline_of, ranges_of
from onnxgraft.errors import InputError, PassError
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, sidecars
from onnxgraft.instruments.numeric import not_runnable
from onnxgraft.instruments.stage import detect, fits
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.serde import Skeleton
from onnxgraft.ir.writing import write_model
from onnxgraft.options import Options
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.images import ResizeRule

PARITY = "parity"


@dataclass(frozen=True)
class Stage:
    """The graph after a pass (name "input": before the first one), with what passes knew by then."""

    index: int
    name: str
    spec: str
    skeleton: Skeleton
    ctx: Context
    changes_answers: str = ""  # why detections may differ after it, by intent

    def graph(self) -> Graph:
        model = type(self.skeleton.model).FromString(self.skeleton.model.SerializeToString())
        return Graph.from_skeleton(Skeleton(model, self.skeleton.weights))


@dataclass(frozen=True)
class Bisection:
    """The result: `culprit` is the first pass after which the check fails; `runs` are (stage, passed) in order."""

    culprit: str
    spec: str
    index: int
    runs: tuple[tuple[str, bool], ...]
    before: Path | None
    after: Path | None
    reason: str

    def __str__(self) -> str:
        return f"pass {self.index} {self.culprit!r}: {self.reason} (found in {len(self.runs)} runs of the check)"


Check = Callable[[Stage], bool]


def bisect(
    model: str | Path,
    check: str | Check,
    options: Options | None = None,
    *,
    images: Sequence[NDArray[np.uint8]] = (),
    keep: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Bisection:
    """Find the first pass of the pipeline after which `check` fails.

    Args:
        model: an .onnx file, or the name of a golden graph.
        check: a shell command that exits with 0 when the ONNX file is good (the file takes the place of {}, or comes
            last), "parity" for detections equal to those before the passes, or a function of a Stage.
        options: what the build was asked for; without a target, the pipeline for ONNX Runtime.
        images: uint8 [H, W, 3] BGR of the canvas size, for parity; without them as for `compile`.
        keep: a folder for before.onnx and after.onnx, the graphs around the culprit.

    Raises:
        InputError: the check fails on the input already, or passes on the result.
    """
    options = options or Options()
    stages, raised = _stages(str(model), options, progress)
    runs: list[tuple[str, bool]] = []
    images = images or (check_images(str(model), options.images, options.size) if check == PARITY else ())
    for part in _comparable(stages, images) if check == PARITY else [stages]:
        if check == PARITY:
            verdict: Check = Parity(part[0], images)
            runs.append((part[0].name, True))
        else:
            verdict = _command(check) if isinstance(check, str) else check

        def passes(stage: Stage, verdict: Check = verdict) -> bool:
            progress(f"checking after {stage.name}")
            runs.append((stage.name, verdict(stage)))
            return runs[-1][1]

        if check != PARITY and not passes(part[0]):
            raise InputError("the check fails on the model before any pass, so no pass is to blame")
        around = _first_failing(part, passes)
        if around is not None:
            before, after = _keep(*around, keep)
            found = around[1]
            return Bisection(found.name, found.spec, found.index, tuple(runs), before, after, "the check fails after it first")
    if raised is not None:
        return Bisection(raised.pass_name, raised.pass_name, stages[-1].index + 1, tuple(runs), None, None, raised.reason)
    raise InputError("the check passes after the last pass, so there is nothing to find")


def _first_failing(stages: Sequence[Stage], passes: Check) -> tuple[Stage, Stage] | None:
    """The last good and the first bad stage, of stages of which the first is good; None when the last is good too."""
    low, high = 0, len(stages) - 1
    if low == high or passes(stages[high]):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(stages[middle]) else (low, middle)
    return stages[low], stages[high]


class _Snapshots(Instrument):
    """Keeps every stage that differs from the one before; weights stay where they are."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def start(self, graph: Graph, ctx: Context) -> None:
        self.stages.append(Stage(0, "input", "", graph.skeleton(), ctx.copy()))

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if record.changed or ctx.facts != self.stages[-1].ctx.facts:
            held = graph.skeleton(), ctx.copy()
            self.stages.append(Stage(record.index, record.name, record.spec, *held, step.changes_answers))
        return record


def _stages(model: str, options: Options, progress: Callable[[str], None]) -> tuple[list[Stage], PassError | None]:
    source, snapshots = catalog.resolve(model, CACHE), _Snapshots()
    pipeline = pipeline_of(options, "onnxruntime" if options.target == "auto" else options.target)
    beside = sidecars.find(model, source, options.sidecar)
    ctx = Context(channel_order=beside.channel_order)
    ctx.range_source = ranges_of(model, options, ResizeRule(*beside.edges), progress)
    progress("running the passes")
    try:
        PassManager(pipeline.passes, [snapshots]).run(Graph.load(source, Bounds.times(options.bounds)), ctx)
    except PassError as error:
        return snapshots.stages, error
    return snapshots.stages, None


def _comparable(stages: list[Stage], images: Sequence[NDArray[np.uint8]]) -> list[list[Stage]]:
    """The stages that ONNX Runtime runs on the images, in series in which answers must not change: each begins with the
    input or with a pass that changes them by intent."""
    series: list[list[Stage]] = []
    for stage in stages:
        if not series or stage.changes_answers:
            series.append([])
        graph = stage.graph()
        if fits(graph, images[0]) and not_runnable(graph) is None:
            series[-1].append(stage)
    series = [part for part in series if len(part) > 1]
    if not series:
        raise InputError("parity: no two stages run on the images; is their size the one that the input is fixed to?")
    return series


class Parity:
    """Whether a stage gives the detections of the first one, by the strict match."""

    def __init__(self, reference: Stage, images: Sequence[NDArray[np.uint8]]) -> None:
        self.images = images
        self.expected = self.detect(reference)

    def __call__(self, stage: Stage) -> bool:
        return all(match(a, b).exact for a, b in zip(self.expected, self.detect(stage), strict=True))

    def detect(self, stage: Stage) -> list[Detections]:
        return detect(stage.graph(), stage.ctx, self.images)


def _command(command: str) -> Check:
    def run(stage: Stage) -> bool:
        with scratch() as folder:
            path = folder / f"{stage.index:02d}_{stage.name}.onnx"
            write_model(stage.skeleton, path)
            place = shlex.quote(str(path))
            line = command.replace("{}", place) if "{}" in command else f"{command} {place}"
            return subprocess.run(line, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    return run


def _keep(before: Stage, after: Stage, folder: Path | None) -> tuple[Path | None, Path | None]:
    if folder is None:
        return None, None
    folder.mkdir(parents=True, exist_ok=True)
    write_model(before.skeleton, folder / "before.onnx")
    write_model(after.skeleton, folder / "after.onnx")
    return folder / "before.onnx", folder / "after.onnx"
