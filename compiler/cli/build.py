"""The command that compiles a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxgraft.cli.console import Model, out, parse_size, working


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
    from onnxgraft.driver.compile import Request, compile
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
    from onnxgraft.tools.verify import check_images

    return check_images(model, images or [], size)


def register(app: typer.Typer) -> None:
    """Add `build` to the program."""
    app.command()(build)
