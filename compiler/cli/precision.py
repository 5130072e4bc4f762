"""Commands on precision: calibrate, eval, sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from onnxgraft.errors import InputError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(calibrate)
    app.command("eval")(evaluate)
    app.command()(sensitivity)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar with the time left, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task(what)
        yield lambda done, total, name: progress.update(task, completed=done, total=total, description=f"{what} {name}")


def show(rows: list[tuple[str, ...]]) -> None:
    """Print a table; the first row is its heading."""
    table = Table(Column(rows[0][0], no_wrap=True), *rows[0][1:], box=None)
    for row in rows[1:]:
        table.add_row(*row)
    out.print(table)


def calibrate(
    model: Annotated[str | None, typer.Argument(help="An .onnx file, or the name of a golden graph.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of pictures; golden graphs draw their own.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The calibration file.")] = Path("calibration.json"),
    method: Annotated[str | None, typer.Option(help="For TensorRT's cache: entropy, percentile, minmax, mse.")] = None,
    percentile: Annotated[float, typer.Option(help="For --method percentile.")] = 99.99,
    limit: Annotated[int | None, typer.Option(help="At most so many pictures.")] = None,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the input.")] = "1344x1344",
    shard: Annotated[str | None, typer.Option(help="I/N: measure every N-th picture only.")] = None,
    ray: Annotated[int | None, typer.Option(help="Measure in so many shards on a Ray cluster (extra [ray]).")] = None,
    merge: Annotated[list[Path] | None, typer.Option(help="Merge calibration files instead (repeatable).")] = None,
    tensorrt_cache: Annotated[Path | None, typer.Option(help="Also write TensorRT's calibration.cache here.")] = None,
) -> None:
    """Measure MODEL's activations over pictures; interrupted, it goes on where it was."""
    from onnxgraft.cli.console import parse_size
    from onnxgraft.quantization import calibrate as run
    from onnxgraft.quantization import distributed, methods
    from onnxgraft.quantization.calibration import merge_files

    method = method or methods.DEFAULT
    methods.check(method, percentile)
    if merge:
        calibration, what = merge_files(merge, output), f"{len(merge)} calibrations merged"
    elif model is None:
        raise InputError("give a MODEL to calibrate, or --merge with calibration files")
    elif ray is not None:
        with bar("calibrating") as progress:
            calibration = distributed.calibrate(model, output, images, limit, parse_size(size), ray, progress)
        what = f"{ray} shards measured through Ray"
    else:
        with bar("calibrating") as progress:
            calibration, what = run.calibrate(model, output, images, limit, parse_size(size), shard, progress)
    for line in calibration.skipped:
        out.print(f"note: left out: {line}", soft_wrap=True)
    if len(calibration.pictures) == 1:
        out.print("note: one image only: scales of other images may differ")
    if tensorrt_cache is not None:
        run.write_tensorrt_cache(calibration, tensorrt_cache, method, percentile)
        out.print(f"{tensorrt_cache}: scales by {method}, as TensorRT writes them", soft_wrap=True)
    out.print(f"{output}: {what}; {len(calibration.pictures)} images, {len(calibration.tensors)} tensors", soft_wrap=True)


def evaluate(
    run: Annotated[str, typer.Argument(help="A build folder, an exported .onnx, or a golden graph.")],
    images: Annotated[Path | None, typer.Option(help="Folder of pictures; a trained golden graph draws its own.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO instances file.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many pictures.")] = None,
    stored: Annotated[Path | None, typer.Option(help="Folder of NAME.npz detections to judge beside it.")] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or required.")] = "auto",
    semantic: Annotated[Path | None, typer.Option(help="Folder of NAME.png semantic classes, for mIoU.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Average precision of boxes, masks and keypoints, as COCO measures it; mean IoU of semantic maps."""
    from onnxgraft.tools import evaluate as evaluation

    with bar("evaluating") as progress:
        report = evaluation.evaluate(run, images, annotations, limit, stored, engine, json_file, semantic, progress)
    show([tuple(row) for row in evaluation.table(report)])
    out.print(f"{report['images']} images; {report['what']}", soft_wrap=True)


def sensitivity(
    run: Annotated[str, typer.Argument(help="An int8 build folder, an exported .onnx, or a golden graph.")],
    images: Annotated[Path | None, typer.Option(help="Folder of pictures; a trained golden graph draws its own.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO instances file, for --accuracy-budget.")] = None,
    limit: Annotated[int, typer.Option(help="Pictures that rank the layers.")] = 4,
    budget: Annotated[float | None, typer.Option("--accuracy-budget", help="By how much AP may fall.")] = None,
    budget_images: Annotated[int, typer.Option(help="Annotated pictures that judge the budget.")] = 60,
    calib: Annotated[Path | None, typer.Option(help="As for build; a build folder brings its own.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    rows: Annotated[int, typer.Option(help="Layers to show.")] = 20,
) -> None:
    """Rank layers by what quantizing each one does to the detections; choose what to keep in fp16."""
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


MANY = 200  # images of a second calibration, to see that memory does not grow


def bench(model: str, repeat: int, images: int, size: tuple[int, int]) -> None:
    """Print calibration beside onnxruntime.quantization's, and latencies of raw export, fp32 and int8."""
    from onnxgraft.tools.benchmark_precision import calibration, latencies

    with bar("measuring") as progress:

        def tell(what: str) -> None:
            progress(0, 0, what)

        tables = [latencies(model, repeat, size, tell)]
        if images:
            tables.append(calibration(model, images, MANY, size, tell))
    for rows in tables:
        show(rows)
