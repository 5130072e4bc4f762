"""Compile an exported detector: from the .onnx file to a build folder with graph, engine, diffs and manifest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft import targets
from onnxgraft.detector import sidecar
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.driver.build_folder import TIMES, new_folder, write_passes
from onnxgraft.driver.recorder import Recorder
from onnxgraft.driver.runnable import MODEL, RUNNABLE, needs_another, write_runnable
from onnxgraft.errors import PassError
from onnxgraft.files import CACHE, digest, write_json
from onnxgraft.golden import catalog, sidecars
from onnxgraft.instruments import NumericCheck, PrintText, Promises, Reproducer, Texts, Verify
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import versions
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline, known_passes
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import LOWERED
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord, Report
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.quantization.methods import DEFAULT as DEFAULT_METHOD
from onnxgraft.quantization.methods import PERCENTILE
from onnxgraft.quantization.ranges import Provider
from onnxgraft.report.drawn import draw_detections
from onnxgraft.report.html import write_report
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.targets import BuilderOptions, EngineInfo


@dataclass
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

    def _repr_html_(self) -> str:
        """For notebooks: the passes as a table, under a link to the report."""
        page = self.folder / "report.html"
        link = f'<p><a href="{page}">{page}</a></p>' if page.is_file() else ""
        return f"<p><b>{self.folder}</b> for {self.manifest['target']}</p>{self.report._repr_html_()}{link}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that `compile` is asked for, beside the model and the place of the result."""

    target: str = "auto"
    options: CompileOptions = field(default_factory=CompileOptions)
    builder: BuilderOptions = field(default_factory=BuilderOptions)
    passes: str | None = None
    skip: tuple[str, ...] = ()
    sidecar: Path | None = None
    stop_after: str | None = None
    load: tuple[str, ...] = ()
    checks: bool = True
    numeric_images: Sequence[NDArray[np.uint8]] = ()
    engine: bool = True
    calibration: Path | None = None
    method: str = DEFAULT_METHOD
    percentile: float = PERCENTILE
    calibration_images: int | None = None
    instruments: tuple[Instrument, ...] = ()
    progress: Callable[[str], None] = lambda _: None


def compile(model: str | Path, output: str | Path, request: Request | None = None) -> Build:
    """Compile `model` into the build folder `output`.

    Args:
        model: an .onnx file, or the name of a golden graph.
        output: the build folder; replaced as a whole when all went well, untouched otherwise.
        request: target, options, passes and checks; see Request.

    Raises:
        InputError, Refusal, PassError, TargetError: one line that says what is wrong and where.
    """
    request = _strict(request or Request())
    started = time.perf_counter()
    source = catalog.resolve(str(model), CACHE)
    target, why = _target(request.target)
    pipeline = pipeline_for(request, target.name)
    for printer in request.instruments:
        if isinstance(printer, PrintText) and printer.wanted:
            pipeline.index(printer.wanted)
    output = Path(output)
    with new_folder(output) as folder:
        request.progress("reading")
        beside = sidecars.find(str(model), source, request.sidecar)
        ranges = _provider(str(model), request, ResizeRule(*beside.edges))
        graph, ctx = Graph.load(source), Context(range_source=ranges, channel_order=beside.channel_order)
        recorder = Recorder(output.with_name(output.name + ".reproducer"))
        checks, numeric = _instruments(request, recorder, source)
        report = _run_passes(graph, ctx, pipeline, request, checks)
        if ctx.detector is not None:
            beside.check(ctx.detector)
        surgery = time.perf_counter() - started
        request.progress("writing")
        graph.save(folder / "model.onnx")
        another = needs_another(ctx, target.traits)
        if another:
            write_runnable(source, pipeline, ctx, folder)
        if ranges.calibration is not None:
            ranges.calibration.save(folder / "calibration.json")
        engine = _build_engine(graph, ctx, folder, target, request)
        manifest = {
            "onnxgraft": versions().get("onnxgraft", "unknown"),
            "source": {"model": str(model), "sha256": digest(source), "opset": graph.source_opset},
            "target": target.name,
            "target_reason": why,
            "precision": request.options.precision,
            "calibration": ranges.describe(),
            "pipeline": str(pipeline),
            "options": vars(request.options),
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
                Path("model.onnx"), Path("model" + (target.suffix or ".onnx")), request.builder
            ),
        }
        if request.checks:
            write_passes(folder, report)
            recorder.write(folder)
        if numeric is not None:
            draw_detections(folder, numeric.images, numeric.found, beside.class_names)
        write_json(folder / "report.json", _without_seconds(report.to_dict()))
        write_json(folder / "manifest.json", manifest)
        times = {r.name: r.seconds for r in report.records}
        write_json(folder / TIMES, {"passes": times, "surgery": surgery, "total": time.perf_counter() - started,
                                    "engine": _times(engine)})  # fmt: skip
        if request.checks:
            write_report(folder)
    return Build(output, report, ctx.detector, manifest)


def _strict(request: Request) -> Request:
    """fp32 means fp32: TF32 keeps ten bits of a product's mantissa, too few for the strict match."""
    if request.options.precision != "fp32" or request.builder.no_tf32:
        return request
    return dataclasses.replace(request, builder=dataclasses.replace(request.builder, no_tf32=True))


def pipeline_for(request: Request, target: str) -> Pipeline:
    """The pipeline that a request asks for. Raises InputError."""
    registry = known_passes(request.load)
    pipeline = (
        Pipeline.parse(request.passes, registry)
        if request.passes
        else default_pipeline(request.options, target, registry)
    )
    for name in request.skip:
        pipeline = pipeline.skip(name)
    return pipeline.stop_after(request.stop_after) if request.stop_after else pipeline


def _provider(model: str, request: Request, rule: ResizeRule) -> Provider:
    return Provider(
        model,
        CACHE,
        request.calibration,
        request.method,
        request.percentile,
        request.calibration_images,
        request.progress,
        rule,
    )


def _target(name: str) -> tuple[targets.Target, str]:
    if name != "auto":
        return targets.get(name), "asked for"
    return targets.auto()


def _instruments(request: Request, recorder: Recorder, source: Path) -> tuple[list[Instrument], NumericCheck | None]:
    """What observes the passes; the recorder comes last, so that it sees finished records."""
    instruments: list[Instrument] = [_Progress(request.progress)]
    numeric = NumericCheck(request.numeric_images, progress=request.progress) if request.numeric_images else None
    if request.checks:
        assert recorder.on_failure is not None
        files = {"--calib": request.calibration, "--sidecar": request.sidecar}
        failure = Reproducer(recorder.on_failure, source, request.load, request.numeric_images, files)
        instruments += [Promises(), Verify(), Texts(), failure]
    if numeric is not None:
        instruments.append(numeric)
    instruments += request.instruments
    if request.checks:
        instruments.append(recorder)
    return instruments, numeric


def _run_passes(
    graph: Graph, ctx: Context, pipeline: Pipeline, request: Request, instruments: Sequence[Instrument]
) -> Report:
    try:
        return PassManager(pipeline.passes, instruments, fingerprints=request.checks).run(graph, ctx)
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
    graph: Graph, ctx: Context, folder: Path, target: targets.Target, request: Request
) -> EngineInfo | None:
    if not request.engine or LOWERED.name not in ctx.facts:
        return None
    request.progress(f"building for {target.name}")
    provenance = {name: origin.pass_name for name, origin in graph.origins.items()}
    return target.build(folder / "model.onnx", folder / ("model" + target.suffix), request.builder, provenance)


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
