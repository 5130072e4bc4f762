"""Compile an exported detector: from the .onnx file to a build folder with graph, engine, diffs and manifest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft import targets
from onnxgraft.detector import sidecar
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.driver.build_folder import TIMES, new_folder, write_passes
from onnxgraft.driver.plan import check_images, pipeline_of, ranges_of, target_of
from onnxgraft.driver.recorder import Recorder
from onnxgraft.driver.runnable import MODEL, RUNNABLE, needs_another, write_runnable
from onnxgraft.errors import InputError, PassError
from onnxgraft.files import CACHE, digest, write_json
from onnxgraft.golden import catalog, sidecars
from onnxgraft.instruments import NumericCheck, Promises, Reproducer, Texts, Verify
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import versions
from onnxgraft.options import CompileOptions, Options, as_dict, declared
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import LOWERED
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord, Report
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.report.drawn import draw_detections
from onnxgraft.report.html import write_report
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.targets import EngineInfo

_OF_THE_PASSES = frozenset(option.name for option in declared(CompileOptions))


@dataclass(repr=False)
class Build:
    """A finished compilation.

    Attributes:
        folder: where it stands.
        report: the records of all passes.
        spec: what was recognised; None when a custom pipeline recognised nothing.
        manifest: the content of manifest.json.
    """

    folder: Path
    report: Report
    spec: DetectorSpec | None
    manifest: dict[str, Any]

    @property
    def passes(self) -> dict[str, PassRecord]:
        """Records by pass name."""
        return {record.name: record for record in self.report.records}

    def __repr__(self) -> str:
        engine = self.manifest["engine"] or "no engine"
        return f"Build({str(self.folder)!r}, {engine} for {self.manifest['target']}, {len(self.report.records)} passes)"

    def _repr_html_(self) -> str:
        """For notebooks: the passes as a table, under a link to the report."""
        page = self.folder / "report.html"
        link = f'<p><a href="{page}">{page}</a></p>' if page.is_file() else ""
        return f"<p><b>{self.folder}</b> for {self.manifest['target']}</p>{self.report._repr_html_()}{link}"


def compile(
    model: str | Path,
    output: str | Path,
    options: Options | None = None,
    *,
    images: Sequence[NDArray[np.uint8]] = (),
    instruments: Sequence[Instrument] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Build:
    """Compile `model` into the build folder `output`.

    Args:
        model: an .onnx file, or the name of a golden graph.
        output: the build folder; replaced as a whole when all went well, untouched otherwise.
        options: what is asked for, by the names of the command line.
        images: uint8 [H, W, 3] BGR of the canvas size, to compare detections on after each pass; see check_numerics.
        instruments: what else observes the passes.
        progress: called with a word on what runs.

    Raises:
        InputError, Refusal, PassError, TargetError: one line that says what is wrong and where.
    """
    options = _strict(options or Options())
    started = time.perf_counter()
    source = catalog.resolve(str(model), CACHE)
    target, why = target_of(options)
    pipeline = pipeline_of(options, target.name)
    if options.check_numerics and not images:
        images = check_images(str(model), options.images, options.size)
    elif options.images:
        raise InputError("--images has no effect here: give --check-numerics")
    output = Path(output)
    with new_folder(output) as folder:
        progress("reading")
        beside = sidecars.find(str(model), source, options.sidecar)
        ranges = ranges_of(str(model), options, ResizeRule(*beside.edges), progress)
        graph, ctx = Graph.load(source), Context(range_source=ranges, channel_order=beside.channel_order)
        recorder = Recorder(output.with_name(output.name + ".reproducer"))
        numeric = NumericCheck(images, progress=progress) if images else None
        observers = _observers(options, recorder, source, numeric, instruments, progress)
        report = _run_passes(graph, ctx, pipeline, options, observers)
        if ctx.detector is not None:
            beside.check(ctx.detector)
        surgery = time.perf_counter() - started
        progress("writing")
        graph.save(folder / "model.onnx")
        another = needs_another(ctx, target.traits)
        if another:
            write_runnable(source, pipeline, ctx, folder)
        if ranges.calibration is not None:
            ranges.calibration.save(folder / "calibration.json")
        engine = _build_engine(graph, ctx, folder, target, options, progress)
        manifest = {
            "onnxgraft": versions().get("onnxgraft", "unknown"),
            "source": {"model": str(model), "sha256": digest(source), "opset": graph.source_opset},
            "target": target.name,
            "target_reason": why,
            "precision": options.precision,
            "calibration": ranges.describe(),
            "pipeline": str(pipeline),
            "options": {name: value for name, value in as_dict(options).items() if name in _OF_THE_PASSES},
            "model": "model.onnx",
            "runnable": RUNNABLE if another else MODEL,
            "engine": "model" + target.suffix if engine is not None and target.suffix else None,
            "io": ctx.io,
            "preprocess": _preprocess(ctx, beside),
            "class_names": list(beside.class_names),
            "semantic_class_names": list(beside.semantic_class_names),
            **({"panoptic": beside.panoptic} if ctx.detector and ctx.detector.semantic and ctx.detector.mask_head else {}),
            "spec": ctx.detector.to_dict() if ctx.detector else None,
            "notes": list(ctx.notes),
            "sizes": {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file()},
            "sha256": {p.name: digest(p) for p in sorted(folder.iterdir()) if p.is_file()},
            "versions": versions(),
            "engine_info": _without_times(engine),
            "trtexec": target.trtexec_line(
                Path("model.onnx"), Path("model" + (target.suffix or ".onnx")), options
            ),
        }
        if options.checks:
            write_passes(folder, report)
            recorder.write(folder)
        if numeric is not None:
            draw_detections(folder, numeric.images, numeric.found, beside.class_names)
        write_json(folder / "report.json", _without_seconds(report.to_dict()))
        write_json(folder / "manifest.json", manifest)
        times = {r.name: r.seconds for r in report.records}
        write_json(folder / TIMES, {"passes": times, "surgery": surgery, "total": time.perf_counter() - started,
                                    "engine": _times(engine)})  # fmt: skip
        if options.checks:
            write_report(folder)
    return Build(output, report, ctx.detector, manifest)


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
    graph: Graph, ctx: Context, pipeline: Pipeline, options: Options, instruments: Sequence[Instrument]
) -> Report:
    try:
        return PassManager(pipeline.passes, instruments, fingerprints=options.checks).run(graph, ctx)
    except PassError as error:
        left = next((i for i in instruments if isinstance(i, Reproducer) and i.written), None)
        if left is not None:
            raise PassError(error.pass_name, f"{error.reason} [replay: {left.folder}/replay.sh]") from error
        raise


class _Progress(Instrument):
    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress

    def before(self, step: Any, graph: Graph, ctx: Context) -> None:
        self._progress(step.name())


def _build_engine(
    graph: Graph, ctx: Context, folder: Path, target: targets.Target, options: Options, progress: Callable[[str], None]
) -> EngineInfo | None:
    if not options.engine or LOWERED.name not in ctx.facts:
        return None
    progress(f"building for {target.name}")
    provenance = {name: origin.pass_name for name, origin in graph.origins.items()}
    return target.build(folder / "model.onnx", folder / ("model" + target.suffix), options, provenance)


def _preprocess(ctx: Context, beside: sidecar.Sidecar) -> dict[str, Any]:
    if ctx.detector is None:
        return {}
    image = ctx.detector.image
    return {
        "mean": list(image.mean), "std": list(image.std), "order": image.order, "order_known": image.order_known,
        "shortest_edge": beside.edges[0], "longest_edge": beside.edges[1],
    }  # fmt: skip


def _without_times(engine: EngineInfo | None) -> dict[str, Any] | None:
    if engine is None:
        return None
    return {k: v for k, v in engine.as_dict().items() if not k.endswith("_seconds")}


def _times(engine: EngineInfo | None) -> dict[str, float]:
    return {} if engine is None else {k: v for k, v in engine.as_dict().items() if k.endswith("_seconds")}


def _without_seconds(report: dict[str, Any]) -> dict[str, Any]:
    for row in report["passes"]:
        row.pop("seconds")
    return report
