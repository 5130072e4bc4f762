"""Commands on precision: calibrate, eval, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Engine, Json, Limit
from onnxgraft.errors import InputError
from onnxgraft.options import CalibrationOptions, Count, Method, Options, Percentile, Share


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    add(app, calibrate, works=True, examples=("onnxgraft calibrate model.onnx --images pictures/ -o calibration.json",))
    add(app, evaluate, "eval", works=True, examples=(
        "onnxgraft eval out --images val2017 --annotations instances_val2017.json",
        "onnxgraft eval out --images val2017 --annotations instances_val2017.json --panoptic panoptic_val2017.json",
    ))  # fmt: skip
    add(app, sensitivity, works=True, examples=("onnxgraft sensitivity out --images pictures/",))


def calibrate(
    options: Options,
    model: Annotated[str | None, typer.Argument(help="An .onnx file, or the name of a golden graph.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures; golden graphs draw their own.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The calibration file.")] = Path("calibration.json"),
    method: Annotated[Method | None, typer.Option(help="For --tensorrt-cache [mse].")] = None,
    percentile: Annotated[Percentile | None, typer.Option(help="For --method percentile [99.99].")] = None,
    limit: Limit = None,
    shard: Annotated[str | None, typer.Option(help="I/N: measure every N-th picture only.")] = None,
    ray: Annotated[Count | None, typer.Option(help="Measure in so many shards on a Ray cluster (extra [ray]).")] = None,
    merge: Annotated[list[Path] | None, typer.Option(help="Merge calibration files instead (repeatable).")] = None,
    tensorrt_cache: Annotated[Path | None, typer.Option(help="Also write TensorRT's calibration.cache here.")] = None,
) -> None:
    """Measure MODEL's activations over pictures; interrupted, it goes on where it was."""
    from onnxgraft.cli.console import bar, out
    from onnxgraft.quantization import calibrate as run
    from onnxgraft.quantization import distributed
    from onnxgraft.quantization.calibration import merge_files
    from onnxgraft.quantization.ranges import few_pictures

    if method is not None and tensorrt_cache is None:
        raise InputError("--method has no effect here: give --tensorrt-cache")
    if percentile is not None and method != "percentile":
        raise InputError("--percentile has no effect here: give --method percentile")
    if merge:
        calibration, what = merge_files(merge, output), f"{len(merge)} calibrations merged"
    elif model is None:
        raise InputError("give a MODEL to calibrate, or --merge with calibration files")
    elif ray is not None:
        with bar("calibrating") as progress:
            calibration = distributed.calibrate(model, output, images, limit, options, ray, progress)
        what = f"{ray} shards measured through Ray"
    else:
        with bar("calibrating") as progress:
            calibration, what = run.calibrate(model, output, images, limit, options, shard, progress)
    for line in calibration.skipped:
        out.print(f"note: left out: {line}", soft_wrap=True)
    for line in few_pictures(len(calibration.pictures)):
        out.print(f"note: {line}", soft_wrap=True)
    if tensorrt_cache is not None:
        method, percentile = method or CalibrationOptions.calib_method, percentile or CalibrationOptions.calib_percentile
        run.write_tensorrt_cache(calibration, tensorrt_cache, method, percentile)
        out.print(f"{tensorrt_cache}: scales by {method}, as TensorRT writes them", soft_wrap=True)
    out.print(f"{output}: {what}; {len(calibration.pictures)} images, {len(calibration.tensors)} tensors", soft_wrap=True)


def evaluate(
    run: Annotated[str, typer.Argument(help="A build folder, an exported .onnx, or a golden graph.")],
    images: Annotated[Path | None, typer.Option(help="Folder of pictures; a trained golden graph draws its own.")] = None,
    annotations: Annotated[Path | None, typer.Option(
        help="COCO or LVIS instances file, or a folder of Cityscapes' annotations.",
    )] = None,
    limit: Limit = None,
    stored: Annotated[Path | None, typer.Option(help="Folder of NAME.npz detections to judge beside it.")] = None,
    engine: Engine = "auto",
    semantic: Annotated[Path | None, typer.Option(help="Folder of NAME.png semantic classes, for mIoU.")] = None,
    panoptic: Annotated[Path | None, typer.Option(help="COCO's panoptic annotations, for panoptic quality.")] = None,
    panoptic_pictures: Annotated[Path | None, typer.Option(help="Their pictures [the folder of FILE's name].")] = None,
    ray: Annotated[Count | None, typer.Option(help="Answer in so many shards on a Ray cluster (extra [ray]).")] = None,
    json_file: Json = None,
) -> None:  # fmt: skip
    """Average precision of boxes, masks and keypoints, as COCO measures it; panoptic quality; mean IoU of semantic maps.

    Interrupted, it goes on where it was."""
    from onnxgraft.cli.console import bar, out, show, write_figures
    from onnxgraft.evaluation.table import table
    from onnxgraft.tools import evaluate as evaluation

    with bar("evaluating") as progress:
        report = evaluation.evaluate(run, images, annotations, limit, stored, engine, None, semantic, progress,
                                     panoptic=panoptic, panoptic_pictures=panoptic_pictures, shards=ray)  # fmt: skip
    if json_file is not None:
        write_figures(json_file, report)
    out.quiet |= str(json_file) == "-"
    show([tuple(row) for row in table(report)])
    out.print(f"{report['images']} images; {report['what']}", soft_wrap=True)


def sensitivity(
    run: Annotated[str, typer.Argument(help="An int8 build folder, an exported .onnx, or a golden graph.")],
    images: Annotated[Path | None, typer.Option(help="Folder of pictures; a trained golden graph draws its own.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO instances file, for --accuracy-budget.")] = None,
    limit: Annotated[Count, typer.Option(help="Pictures that rank the layers.")] = 4,
    budget: Annotated[Share | None, typer.Option("--accuracy-budget", help="By how much AP may fall.")] = None,
    budget_images: Annotated[Count, typer.Option(help="Annotated pictures that judge the budget.")] = 60,
    calib: Annotated[Path | None, typer.Option(help="As for build; a build folder brings its own.")] = None,
    json_file: Json = None,
    rows: Annotated[Count, typer.Option(help="Layers to show.")] = 20,
) -> None:
    """Rank layers by what quantizing each one does to the detections; choose what to keep in fp16."""
    from onnxgraft.cli.console import bar, out, show
    from onnxgraft.tools.sensitivity import report_on

    with bar("measuring") as progress:
        report = report_on(run, images, annotations, limit, budget, budget_images, calib, json_file, progress)
    table: list[tuple[str, ...]] = [("layer", "kind", "damage")]
    table += [(row["layer"], row["kind"], f"{row['damage']:.4%}") for row in report["layers"][:rows]]
    show(table)
    choice = report["choice"]
    if choice is None:
        return
    out.print(f"judged on {choice['images']} images")
    kept = f"kept in fp16: {choice['layers']} of {len(report['layers'])} layers"
    out.print(f"{kept}, {choice['cost']:.1%} of the multiplications" + ("" if choice["met"] else "; the budget is not met"))
    for what, key in (("fp32", "reference"), ("int8 throughout", "all_int8"), ("int8 with these kept", "kept")):
        out.print(f"{what}: box AP {choice[key][0]:.4f}, mask AP {choice[key][1]:.4f}")
    out.print(f"build with: --keep-fp16 {choice['keep']}", soft_wrap=True)
