"""The commands that use a build or look at a model: inspect, infer, verify, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from onnxgraft.cli import precision as cli_precision
from onnxgraft.cli.console import Model, Run, out, parse_size, working


def inspect(
    model: Model,
    pooler_type: Annotated[str, typer.Option(help="What an export below opset 16 meant.")] = "ROIAlignV2",
    as_json: Annotated[bool, typer.Option("--json", help="Print the spec as JSON.")] = False,
) -> None:
    """Show what is recognised in MODEL: every number of the detector, or why it is not one."""
    from onnxgraft.detector.describe import spec_rows
    from onnxgraft.files import CACHE
    from onnxgraft.golden import catalog
    from onnxgraft.tools.inspect import inspect as inspect_file

    spec, notes = inspect_file(catalog.resolve(model, CACHE), pooler_type)
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
    from onnxgraft.tools.infer import infer as run_inference

    with working("inference") as progress:
        edges = shortest_edge, longest_edge
        summary = run_inference(run, images, json_file, draw, min_score, edges, engine, progress, proposals)
    for line in summary:
        out.print(line, soft_wrap=True)


def verify(
    run: Run,
    images: Annotated[list[Path] | None, typer.Option(help="Pictures to compare on (repeatable).")] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or required.")] = "auto",
) -> None:
    """Compare a build's detections with the reference; exits with 1 when they differ."""
    from onnxgraft.tools.verify import verify as run_verification

    with working("verifying") as progress:
        results, what = run_verification(run, images or [], engine, progress)
    for result in results:
        out.print(f"{'same' if result.passed else 'DIFFERS'}  {result.name}: {result.report}", soft_wrap=True)
    out.print(what, soft_wrap=True)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def bench(
    run: Annotated[Path | None, typer.Argument(help="A build folder, for its latency; without it surgery is measured.")] = None,
    model: Annotated[str, typer.Option(help="The model whose surgery is measured.")] = "mask_rcnn_R_50_FPN_3x",
    repeat: Annotated[int, typer.Option(help="Counted runs of each measurement.")] = 5,
    precision: Annotated[bool, typer.Option("--precision", help="Measure calibration and int8 instead of surgery.")] = False,
    calib_images: Annotated[int, typer.Option(help="--precision: images for all calibrators; 0 for none.")] = 10,
    size: Annotated[str, typer.Option(help="--precision: HEIGHTxWIDTH.")] = "1344x1344",
) -> None:
    """Measure: surgery and engine build beside loading and saving the file, or the latency of a build."""
    from onnxgraft.tools.benchmark import latency, surgery

    if precision:
        cli_precision.bench(model, repeat, calib_images, parse_size(size))
        return
    with working("measuring") as progress:
        rows = latency(run, repeat, progress) if run else surgery(model, repeat, progress)
    cli_precision.show(rows)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (inspect, infer, verify, bench):
        app.command()(command)
