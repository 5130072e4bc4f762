"""Compile an exported detector: from the .onnx file to a build folder with graph, engine, diffs and manifest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft import targets
from onnxgraft.detector.sidecar import Sidecar
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.driver.build_folder import new_folder, write_passes, write_report_json
from onnxgraft.driver.describe import manifest_of, times_of
from onnxgraft.driver.plan import check_images, planned, ranges_of
from onnxgraft.driver.proving import prove_build
from onnxgraft.driver.recorder import Recorder
from onnxgraft.driver.runnable import MODEL, RUNNABLE, Shared, needs_another, runs_as_built, write_runnable
from onnxgraft.driver.variants import variants_of
from onnxgraft.errors import InputError, PassError
from onnxgraft.files import CACHE, digest
from onnxgraft.golden import catalog, sidecars
from onnxgraft.instruments import NumericCheck, Promises, Reproducer, Texts, Verify
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import VARIANTS, Manifest, Source
from onnxgraft.options import Options
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import LOWERED
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord, Report
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.proof.proof import Proof
from onnxgraft.proof.witness import Witness
from onnxgraft.quantization.ranges import Provider
from onnxgraft.report.drawn import draw_detections
from onnxgraft.report.html import write_report
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.targets import EngineInfo


@dataclass(repr=False)
class Build:
    """A finished compilation.

    Attributes:
        folder: where it stands.
        report: the records of all passes.
        spec: what was recognised; None when a custom pipeline recognised nothing.
        manifest: the content of manifest.json.
        proof: what was proved of its answers; None when nothing was to be.
    """

    folder: Path
    report: Report
    spec: DetectorSpec | None
    manifest: Manifest
    proof: Proof | None = None

    @property
    def passes(self) -> dict[str, PassRecord]:
        """Records by pass name."""
        return {record.name: record for record in self.report.records}

    def __repr__(self) -> str:
        engine = self.manifest.engine or "no engine"
        return f"Build({str(self.folder)!r}, {engine} for {self.manifest.target}, {len(self.report.records)} passes)"

    def _repr_html_(self) -> str:
        """For notebooks: the passes as a table, under a link to the report."""
        page = self.folder / "report.html"
        link = f'<p><a href="{page}">{page}</a></p>' if page.is_file() else ""
        return f"<p><b>{self.folder}</b> for {self.manifest.target}</p>{self.report._repr_html_()}{link}"


def compile(
    model: str | Path, output: str | Path, options: Options | None = None, *, images: Sequence[NDArray[np.uint8]] = (),
    instruments: Sequence[Instrument] = (), progress: Callable[[str], None] = lambda _: None,
) -> Build:  # fmt: skip
    """Compile `model` into the build folder `output`.

    Args:
        model: an .onnx file, or the name of a golden graph.
        output: the build folder; replaced as a whole when all went well, untouched otherwise.
        options: what is asked for, by the names of the command line.
        images: uint8 [H, W, 3] BGR of the canvas size, to compare detections on after each pass; see check_numerics.
        instruments: what else observes the passes.
        progress: called with a word on what runs.

    Raises:
        InputError, Refusal, PassError, ProofError, TargetError: one line that says what is wrong and where.
    """
    options, started = _strict(options or Options()), time.perf_counter()
    source, bounds = catalog.resolve(str(model), CACHE), Bounds.times(options.bounds)
    (target, why, pipeline), images = planned(options), _pictures(str(model), options, images)
    with new_folder(output := Path(output)) as folder:
        progress("reading")
        beside = sidecars.find(str(model), source, options.sidecar)
        ranges = ranges_of(str(model), options, ResizeRule(*beside.edges), progress)
        graph, ctx = Graph.load(source, bounds), Context(range_source=ranges, channel_order=beside.channel_order)
        recorder = Recorder(output.with_name(output.name + ".reproducer"))
        numeric = NumericCheck(images, progress=progress) if images else None
        watching = [*instruments, witness := Witness(keeps=options.proof), shared := Shared(pipeline.passes)]
        observers = _observers(options, recorder, source, numeric, watching, progress)
        report = _run_passes(graph, ctx, pipeline, options, observers, beside)
        surgery = time.perf_counter() - started
        progress("writing")
        graph.save(folder / MODEL)
        with _building(graph, ctx, folder, target, options) as built:
            runnable = _write_others(ctx, source, pipeline, target, folder, bounds, ranges, shared)
            proved = folder / (MODEL if runs_as_built(ctx, target.traits) else runnable)
            proof = prove_build(str(model), source, pipeline, witness, options, beside, progress, proved, ctx)
            progress(f"building for {target.name}")
            engine = built()
        manifest = manifest_of(
            options=options, ctx=ctx, beside=beside, folder=folder, target=target, engine=engine,
            runnable=runnable, source=Source(str(model), digest(source), graph.source_opset),
            target_reason=why, calibration=ranges.describe(), pipeline=str(pipeline), proof=proof,
        )  # fmt: skip
        manifest = _write_manifest(manifest, str(model), folder, options, progress)
        _write_report(folder, report, recorder if options.checks else None, numeric, beside.class_names)
        times_of(report, engine, surgery, time.perf_counter() - started).write(folder)
        if options.checks:
            write_report(folder)
    return Build(output, report, ctx.detector, manifest, proof)


def _write_manifest(
    manifest: Manifest, model: str, folder: Path, options: Options, progress: Callable[[str], None]
) -> Manifest:
    """Compile the other canvases and batches, each a build in `variants/`, and write the manifest that names them."""
    names = []
    for name, wanted in variants_of(options):
        compile(model, folder / VARIANTS / name, wanted, progress=partial(_said_of, progress, name))
        names.append(name)
    manifest = dataclasses.replace(manifest, variants=tuple(names))
    manifest.write(folder)
    return manifest


def _said_of(progress: Callable[[str], None], name: str, word: str) -> None:
    progress(f"{name}: {word}")


def _write_others(
    ctx: Context, source: Path, pipeline: Pipeline, target: targets.Target, folder: Path, bounds: Bounds, ranges: Provider,
    shared: Shared,
) -> str:  # fmt: skip
    """Write what calibration measured and, where ONNX Runtime cannot run model.onnx or is slower with it, runnable.onnx;
    returns the one that it runs."""
    if ranges.calibration is not None:
        ranges.calibration.save(folder / "calibration.json")
    if not needs_another(ctx, target.traits):
        return MODEL
    write_runnable(source, pipeline, ctx, folder, bounds, shared)
    return RUNNABLE


def _write_report(
    folder: Path, report: Report, recorder: Recorder | None, numeric: NumericCheck | None, names: Sequence[str]
) -> None:
    """report.json, and what the page shows of each pass when it was recorded: texts, nodes, detections."""
    if numeric is not None:
        draw_detections(folder, numeric.images, numeric.found, names)
    write_report_json(folder, report)
    if recorder is not None:
        write_passes(folder, report)
        recorder.write(folder)


def _pictures(model: str, options: Options, given: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.uint8]]:
    """What detections are compared on after each pass, uint8 [H, W, 3] BGR of the canvas size; none without the check."""
    if options.check_numerics and not given:
        return check_images(model, options.images, options.size)
    if options.images and not options.check_numerics and not options.proof:
        raise InputError("--images has no effect here: give --proof or --check-numerics")
    return given


def _strict(options: Options) -> Options:
    """fp32 means fp32: TF32 keeps ten bits of a product's mantissa, too few for the strict match."""
    return dataclasses.replace(options, no_tf32=options.no_tf32 or options.precision == "fp32")


def _observers(
    options: Options, recorder: Recorder, source: Path, numeric: NumericCheck | None, more: Sequence[Instrument],
    progress: Callable[[str], None],
) -> list[Instrument]:  # fmt: skip
    """What observes the passes; the recorder comes last, so that it sees finished records."""
    checks: list[Instrument] = []
    if options.checks:
        assert recorder.on_failure is not None
        pictures = numeric.images if numeric is not None else ()
        checks = [Promises(), Verify(), Texts(), Reproducer(recorder.on_failure, source, options, pictures)]
    numbers = [numeric] if numeric is not None else []
    return [_Progress(progress), *checks, *numbers, *more, *([recorder] if options.checks else [])]


def _run_passes(
    graph: Graph, ctx: Context, pipeline: Pipeline, options: Options, instruments: Sequence[Instrument], beside: Sidecar
) -> Report:
    """Run them, and hold what they recognised against the sidecar."""
    try:
        report = PassManager(pipeline.passes, instruments, fingerprints=options.checks).run(graph, ctx)
    except PassError as error:
        left = next((i for i in instruments if isinstance(i, Reproducer) and i.written), None)
        if left is not None:
            raise PassError(error.pass_name, f"{error.reason} [replay: {left.folder}/replay.sh]") from error
        raise
    if ctx.detector is not None:
        beside.check(ctx.detector)
    return report


class _Progress(Instrument):
    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress

    def before(self, step: Any, graph: Graph, ctx: Context) -> None:
        self._progress(step.name())


@contextmanager
def _building(
    graph: Graph, ctx: Context, folder: Path, target: targets.Target, options: Options
) -> Iterator[Callable[[], EngineInfo | None]]:
    """The engine, made beside what the `with` block does; none where none was asked for or the graph is not the target's."""
    if not options.engine or options.release or LOWERED.name not in ctx.facts:
        yield lambda: None
        return
    provenance = {name: origin.pass_name for name, origin in graph.origins.items()}
    with target.building(folder / MODEL, folder / ("model" + target.suffix), options, provenance) as built:
        yield built
