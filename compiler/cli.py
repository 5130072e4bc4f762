"""The command line: arguments only; each command calls one function of the API."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from onnxgraft import cli_export, cli_passes, cli_precision
from onnxgraft.errors import InputError, OnnxgraftError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help speaks of [defaults], which markup would swallow
    help="Compile detectron2 detectors exported to ONNX into TensorRT engines that give the same answers.",
    epilog="Set ONNXGRAFT_TRACEBACK=1 to see where an error comes from.",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Model = Annotated[str, typer.Argument(help="An .onnx file, or the name of a golden graph (mask_rcnn).")]
Run = Annotated[Path, typer.Argument(help="A build folder.")]


_INTERRUPTED = "interrupted; nothing was replaced"


def main() -> None:
    """Entry point: errors become one line and a non-zero exit code."""
    try:
        app()
    except OnnxgraftError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail(_INTERRUPTED, 130)
    except SystemExit as end:  # newer Typer turns the interrupt into a silent exit
        if end.code == 130:
            _fail(_INTERRUPTED, 130)
        raise
    except OSError as error:
        _fail(f"{error.filename or ''}: {(error.strerror or str(error)).lower()}".lstrip(": "), 1)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:300]
        _fail(f"{what} (a fault of onnxgraft, not of your input: ONNXGRAFT_TRACEBACK=1 shows where)", 1)


def _fail(message: str, code: int) -> None:
    if os.environ.get("ONNXGRAFT_TRACEBACK"):
        traceback.print_exc()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(code)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a changing word, on a terminal only."""
    if not err.is_terminal:
        yield lambda word: None
        return
    with err.status(what) as status:
        yield lambda word: status.update(f"{what}: {word}")


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise InputError(f"--size {text!r}: write HEIGHTxWIDTH, such as 1344x1344")
    return int(height), int(width)


@app.command()
def build(
    model: Model,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Build folder [build/MODEL/PRECISION].")] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8.")] = "fp32",
    target: Annotated[str, typer.Option(help="tensorrt, tensorrt-rtx, onnxruntime or auto.")] = "auto",
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the input, multiples of 32.")] = "1344x1344",
    batch: Annotated[int, typer.Option(help="Images per inference.")] = 1,
    proposals: Annotated[int | None, typer.Option(help="Fast R-CNN: proposals of an image [1000].")] = None,
    allow_unknown_outputs: Annotated[bool, typer.Option(help="Leave outputs as they are that are not known.")] = False,
    input_order: Annotated[str, typer.Option(help="Channel order of the input: model, BGR or RGB.")] = "model",
    input_layout: Annotated[str, typer.Option(help="NCHW or NHWC.")] = "NCHW",
    input_dtype: Annotated[str, typer.Option(help="float32 or uint8.")] = "float32",
    image_sizes: Annotated[bool, typer.Option(help="Add an input [N,2] with the true size of each image.")] = False,
    exact_padding: Annotated[bool, typer.Option(help="Answers that do not depend on the canvas (adds image_sizes).")] = False,
    boxes: Annotated[str, typer.Option(help="Boxes of the output: normalized or pixels.")] = "normalized",
    score_threshold: Annotated[float | None, typer.Option(help="Override the detections' score threshold.")] = None,
    rpn_score_threshold: Annotated[float, typer.Option(help="Score threshold of proposals; detectron2 has none.")] = 0.0,
    iou_threshold: Annotated[float | None, typer.Option(help="Override the detections' NMS threshold.")] = None,
    detections: Annotated[int | None, typer.Option(help="Override detections per image.")] = None,
    pooler_type: Annotated[str, typer.Option(help="What an export below opset 16 meant.")] = "ROIAlignV2",
    nms: Annotated[str, typer.Option(help="auto, native or plugin.")] = "auto",
    roi_align: Annotated[str, typer.Option(help="auto, native or plugin.")] = "auto",
    roi_sampling: Annotated[str, typer.Option(help="Native RoIAlign: exact, masked4 or fixed2.")] = "exact",
    deform_conv: Annotated[str, typer.Option(help="auto, native or plugin.")] = "auto",
    max_candidates: Annotated[int | None, typer.Option(help="Native NMS: boxes that enter.")] = None,
    calib: Annotated[Path | None, typer.Option(help="int8: folder of images, calibration.json or calibration.cache.")] = None,
    calib_method: Annotated[str | None, typer.Option(help="entropy, percentile, minmax or mse.")] = None,
    calib_percentile: Annotated[float, typer.Option(help="For --calib-method percentile.")] = 99.99,
    calib_images: Annotated[int | None, typer.Option(help="Use at most so many calibration images.")] = None,
    keep_fp16: Annotated[str | None, typer.Option(help="int8: layers kept higher, such as first-conv+rpn+fpn/2.")] = None,
    keep_fp32: Annotated[str | None, typer.Option(help="Layers that stay in fp32, named alike.")] = None,
    passes: Annotated[str | None, typer.Option(help="A pipeline instead of the default one.")] = None,
    sidecar: Annotated[Path | None, typer.Option(help="Class names and config [MODEL.json beside it].")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave out a pass (repeatable).")] = None,
    stop_after: Annotated[str | None, typer.Option(help="Stop after this pass; no engine is built.")] = None,
    load: Annotated[list[str] | None, typer.Option(help="A Python file with passes of yours (repeatable).")] = None,
    print_after: Annotated[str | None, typer.Option(help="Print the graph after this pass.")] = None,
    print_changed: Annotated[bool, typer.Option(help="Print the graph after each pass that changed it.")] = False,
    checks: Annotated[bool, typer.Option(help="Verify the graph and keep its text after each pass.")] = True,
    check_numerics: Annotated[bool, typer.Option(help="Compare detections after each pass, in ONNX Runtime.")] = False,
    images: Annotated[list[Path] | None, typer.Option(help="Pictures for --check-numerics (repeatable).")] = None,
    engine: Annotated[bool, typer.Option(help="Build the engine.")] = True,
    timing_cache: Annotated[Path | None, typer.Option("--timingCacheFile", help="Timing cache, read and written.")] = None,
    workspace: Annotated[float | None, typer.Option("--memPoolSize", help="Workspace in MiB.")] = None,
    optimization: Annotated[int | None, typer.Option("--builderOptimizationLevel", help="0 to 5.")] = None,
    capabilities: Annotated[str, typer.Option("--computeCapabilities", help="GPUs to build for: 8.6,8.9 (RTX).")] = "",
    version_compatible: Annotated[bool, typer.Option("--versionCompatible", help="Load in later versions too.")] = False,
    hardware: Annotated[str, typer.Option("--hardwareCompatibilityLevel", help="none or ampere+.")] = "none",
    strip_weights: Annotated[bool, typer.Option("--stripWeights", help="Leave weights out of the engine.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be replaced later.")] = False,
) -> None:
    """Compile MODEL into a build folder: model.onnx, engine, a diff per pass, report, manifest."""
    from onnxgraft.build import Request, compile
    from onnxgraft.instruments import PrintText
    from onnxgraft.options import CompileOptions
    from onnxgraft.quantization.methods import DEFAULT
    from onnxgraft.targets import BuilderOptions

    height, width = parse_size(size)
    options = CompileOptions(
        precision=precision, height=height, width=width, batch=batch, proposals=proposals,
        allow_unknown_outputs=allow_unknown_outputs, input_order=input_order,
        input_layout=input_layout, input_dtype=input_dtype, image_sizes=image_sizes, exact_padding=exact_padding, boxes=boxes,
        rpn_score_threshold=rpn_score_threshold, score_threshold=score_threshold, iou_threshold=iou_threshold,
        detections=detections, pooler_type=pooler_type, nms=nms, roi_align=roi_align, roi_sampling=roi_sampling,
        deform_conv=deform_conv, max_candidates=max_candidates, keep_fp16=keep_fp16, keep_fp32=keep_fp32,
    )  # fmt: skip
    builder = BuilderOptions(
        workspace=workspace, builder_optimization_level=optimization, timing_cache=timing_cache,
        compute_capabilities=tuple(filter(None, capabilities.split(","))), version_compatible=version_compatible,
        hardware_compatibility_level=hardware, strip_weights=strip_weights, refit=refit,
    )  # fmt: skip
    printers = (
        [PrintText(lambda words: out.print(words, markup=False, soft_wrap=True, end=""), print_after)]
        if print_after or print_changed
        else []
    )
    output = output or Path("build") / Path(model).stem / precision
    with working(f"building {output}") as progress:
        request = Request(
            target=target, options=options, builder=builder, passes=passes, sidecar=sidecar, skip=tuple(skip or ()),
            stop_after=stop_after, load=tuple(load or ()), checks=checks, engine=engine, instruments=tuple(printers),
            numeric_images=_check_images(model, images, (height, width)) if check_numerics else (), progress=progress,
            calibration=calib, method=calib_method or DEFAULT, percentile=calib_percentile, calibration_images=calib_images,
        )  # fmt: skip
        made = compile(model, output, request)
    for note in made.manifest["notes"]:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(_build_line(made), soft_wrap=True)


def _build_line(made: Any) -> str:
    manifest, name = made.manifest, made.manifest["engine"]
    what = f"{name} ({manifest['sizes'][name] / 2**20:.1f} MiB) for {manifest['target']}" if name else "model.onnx, no engine"
    records = made.report.records
    if not (made.folder / "passes").is_dir():
        return f"{made.folder}: {what}; {len(records)} passes ran without checks"
    return f"{made.folder}: {what}; {sum(record.changed for record in records)} of {len(records)} passes changed the graph"


def _check_images(model: str, images: list[Path] | None, size: tuple[int, int]) -> list[Any]:
    from onnxgraft.verification import check_images

    return check_images(model, images or [], size)


@app.command()
def inspect(
    model: Model,
    pooler_type: Annotated[str, typer.Option(help="What an export below opset 16 meant.")] = "ROIAlignV2",
    as_json: Annotated[bool, typer.Option("--json", help="Print the spec as JSON.")] = False,
) -> None:
    """Show what is recognised in MODEL: every number of the detector, or why it is not one."""
    from onnxgraft import golden
    from onnxgraft.build import CACHE
    from onnxgraft.inspection import inspect as inspect_file
    from onnxgraft.inspection import spec_rows

    spec, notes = inspect_file(golden.resolve(model, CACHE), pooler_type)
    if as_json:
        out.print_json(data=spec.to_dict())
        return
    table = Table("part", "what", "value", title=None, box=None)
    last = ""
    for part, what, value in spec_rows(spec):
        table.add_row(part if part != last else "", what, value)
        last = part
    out.print(table)
    for note in notes:
        out.print(f"note: {note}", soft_wrap=True)


@app.command()
def infer(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Pictures of any size.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the detections to this file.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Write each picture with its detections into this folder.")] = None,
    min_score: Annotated[float, typer.Option(help="Draw and write detections of at least this score.")] = 0.0,
    shortest_edge: Annotated[int | None, typer.Option(help="Resize rule: shortest edge (800).")] = None,
    longest_edge: Annotated[int | None, typer.Option(help="Resize rule: longest edge (1333).")] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or required.")] = "auto",
    proposals: Annotated[Path | None, typer.Option(help="Fast R-CNN: boxes, as --json of an RPN's build.")] = None,
) -> None:
    """Detect in pictures: JSON and drawn pictures in their own coordinates."""
    from onnxgraft.inference import infer as run_inference

    with working("inference") as progress:
        edges = shortest_edge, longest_edge
        summary = run_inference(run, images, json_file, draw, min_score, edges, engine, progress, proposals)
    for line in summary:
        out.print(line, soft_wrap=True)


@app.command()
def verify(
    run: Run,
    images: Annotated[list[Path] | None, typer.Option(help="Pictures to compare on (repeatable).")] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or required.")] = "auto",
) -> None:
    """Compare a build's detections with the reference; exits with 1 when they differ."""
    from onnxgraft.verification import verify as run_verification

    with working("verifying") as progress:
        results, what = run_verification(run, images or [], engine, progress)
    for result in results:
        out.print(f"{'same' if result.passed else 'DIFFERS'}  {result.name}: {result.report}", soft_wrap=True)
    out.print(what, soft_wrap=True)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


@app.command()
def bench(
    run: Annotated[Path | None, typer.Argument(help="A build folder, for its latency; without it surgery is measured.")] = None,
    model: Annotated[str, typer.Option(help="The model whose surgery is measured.")] = "mask_rcnn_R_50_FPN_3x",
    repeat: Annotated[int, typer.Option(help="Counted runs of each measurement.")] = 5,
    precision: Annotated[bool, typer.Option("--precision", help="Measure calibration and int8 instead of surgery.")] = False,
    calib_images: Annotated[int, typer.Option(help="--precision: images for all calibrators; 0 for none.")] = 10,
    size: Annotated[str, typer.Option(help="--precision: HEIGHTxWIDTH.")] = "1344x1344",
) -> None:
    """Measure: surgery and engine build beside loading and saving the file, or the latency of a build."""
    from onnxgraft.benchmark import latency, surgery

    if precision:
        cli_precision.bench(model, repeat, calib_images, parse_size(size))
        return
    with working("measuring") as progress:
        rows = latency(run, repeat, progress) if run else surgery(model, repeat, progress)
    cli_precision.show(rows)


cli_export.register(app)
cli_passes.register(app)
cli_precision.register(app)
