"""The commands that use a build or look at a model: inspect, infer, verify, bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Engine, Json, Limit, Model, Run
from onnxgraft.errors import InputError
from onnxgraft.options import Between, Count, Options, Share, Size


def inspect(
    model: Model,
    options: Options,
    as_json: Annotated[bool, typer.Option("--json", help="Print the spec as JSON.")] = False,
    account: Annotated[bool, typer.Option("--account", help="Name every node and the part that explains it.")] = False,
) -> None:
    """Show what is recognised in MODEL: every number of the detector, or why it is not one."""
    from rich.table import Table

    from onnxgraft.cli.console import out
    from onnxgraft.detector.describe import spec_rows
    from onnxgraft.files import CACHE
    from onnxgraft.golden import catalog
    from onnxgraft.tools.inspect import inspect_nodes

    spec, explained, notes = inspect_nodes(catalog.resolve(model, CACHE), options.pooler_type, options.bounds)
    if as_json:
        out.print_json(data=spec.to_dict())
        return
    table = Table("part", "what", "value", title=None, box=None)
    last = ""
    for part, what, value in (*spec_rows(spec), *explained.rows(full=account)):
        table.add_row(part if part != last else "", what, value)
        last = part
    out.print(table)
    for note in notes:
        out.print(f"note: {note}", soft_wrap=True)


def infer(
    run: Run,
    images: Annotated[list[str], typer.Argument(help="Pictures, folders, patterns, videos, or a camera's index.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the detections to this file; - prints them.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Draw what is found into this folder: PNG, videos as MP4.")] = None,
    txt: Annotated[Path | None, typer.Option(help="Write NAME.txt as NVIDIA's sample does, tab-separated.")] = None,
    min_score: Annotated[Share | None, typer.Option(
        help="Least score written and drawn; without it 0.5 is drawn, all written.",
    )] = None,
    names: Annotated[Path | None, typer.Option("--class-names", help="A name a line, or JSON; the build's.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first picture that cannot be read.")] = False,
    limit: Limit = None,
    shortest_edge: Annotated[Count | None, typer.Option(help="Resize rule: shortest edge (800).")] = None,
    longest_edge: Annotated[Count | None, typer.Option(help="Resize rule: longest edge (1333).")] = None,
    engine: Engine = "auto",
    proposals: Annotated[Path | None, typer.Option(help="Fast R-CNN: boxes, as --json of an RPN's build.")] = None,
    ray: Annotated[Count | None, typer.Option(help="Answer in so many shards on a Ray cluster (extra [ray]).")] = None,
) -> None:  # fmt: skip
    """Detect in pictures and videos: JSON, text and drawn pictures in their own coordinates.

    Pictures that cannot be read are named and passed over; the exit code is their number (at most 100)."""
    from onnxgraft.cli.console import bar, say, say_aside
    from onnxgraft.files import STDOUT
    from onnxgraft.tools import infer as inference
    from onnxgraft.tools.infer_shards import infer_shards

    wanted = inference.Outputs(json_file=json_file, drawn=draw, txt=txt, min_score=min_score, names=names, strict=strict,
                               limit=limit)  # fmt: skip
    tell = say_aside if json_file == STDOUT else say
    with bar("detecting") as progress:
        edges = shortest_edge, longest_edge
        if ray is None:
            summary, known = inference.infer(run, images, wanted, edges, engine, progress, proposals, tell)
        else:
            summary, known = infer_shards(run, images, wanted, edges, engine, ray, progress, proposals, tell)
    for line in inference.summary_lines(wanted, summary, known):
        tell(line)
    if summary.unread:
        raise typer.Exit(min(len(summary.unread), 100))


def sizes(
    images: Annotated[list[str], typer.Argument(help="Pictures, folders, patterns, videos.")],
    most: Annotated[Count, typer.Option(help="At most so many canvases.")] = 4,
    shortest_edge: Annotated[Count, typer.Option(help="Resize rule: shortest edge.")] = 800,
    longest_edge: Annotated[Count, typer.Option(help="Resize rule: longest edge.")] = 1333,
    json_file: Json = None,
) -> None:
    """Propose canvases for pictures, and say what share of the work they save."""
    from dataclasses import asdict

    from onnxgraft.cli.console import bar, out, say, show, write_figures
    from onnxgraft.runtime.images import ResizeRule
    from onnxgraft.tools.sizes import propose

    with bar("reading") as progress:
        found, count, unread = propose(images, ResizeRule(shortest_edge, longest_edge), most, progress)
    if json_file is not None:
        write_figures(json_file, [asdict(proposal) for proposal in found])
    out.quiet |= str(json_file) == "-"
    for line in unread:
        say(f"note: passed over: {line}")
    rows: list[tuple[str, ...]] = [("canvases", "pictures", "work", "saved")]
    for proposal in found:
        names = ",".join(f"{height}x{width}" for height, width in proposal.canvases)
        shares = " ".join(f"{share:.0%}" for share in proposal.shares)
        rows.append((names, shares, f"{proposal.work:.3f}", f"{1 - proposal.work:.1%}"))
    show(rows)
    say(f"{count} pictures; work is the pixels that run, beside the one canvas that holds all")
    say(f"onnxgraft build MODEL --size {rows[-1][0]} --exact-padding")


def verify(
    run: Run,
    images: Annotated[list[Path] | None, typer.Option(help="Pictures to compare on (repeatable).")] = None,
    engine: Engine = "auto",
    json_file: Json = None,
) -> None:
    """Compare a build's detections with the reference; exits with 1 when they differ, or when nothing was compared."""
    from onnxgraft.cli.console import out, working, write_figures
    from onnxgraft.tools.verify import verify as run_verification

    with working("verifying") as progress:
        results, what = run_verification(run, images or [], engine, progress)
    if json_file is not None:
        rows = [{"name": r.name, "verdict": r.verdict, "passed": r.passed, **r.report.to_json()} for r in results]
        same = all(r.passed for r in results) and any(r.compared for r in results)
        write_figures(json_file, {"same": same, "what": what, "pictures": rows})
    out.quiet |= str(json_file) == "-"
    for result in results:
        out.print(f"{result.verdict}  {result.name}: {result.report}", soft_wrap=True)
    out.print(what, soft_wrap=True)
    if not any(result.compared for result in results):
        out.print("nothing was compared: neither side finds anything on these pictures; give --images", soft_wrap=True)
        raise typer.Exit(1)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def bench(
    run: Annotated[Path | None, typer.Argument(help="A build folder, for its latency; without it surgery is measured.")] = None,
    model: Annotated[str | None, typer.Option(help="The model that is measured [mask_rcnn_R_50_FPN_3x].")] = None,
    repeat: Annotated[Count, typer.Option(help="Counted runs of each measurement.")] = 5,
    precision: Annotated[bool, typer.Option("--precision", help="Measure calibration and int8 instead of surgery.")] = False,
    calib_images: Annotated[Annotated[int, Between(0)] | None,
                            typer.Option(help="--precision: images for all calibrators; 0 for none [10].")] = None,
    size: Annotated[Size | None, typer.Option(help="--precision: the canvas [1344x1344].")] = None,
    end_to_end: Annotated[bool, typer.Option("--end-to-end", help="RUN: each step from a picture to its answer.")] = False,
    pictures: Annotated[list[int] | None,
                        typer.Option(min=1, help="--end-to-end: pictures of a run (repeatable) [1, 8 and 64].")] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Measure pasting, encoding and drawing of 100 masks instead.")] = False,
    floor: Annotated[bool, typer.Option("--floor", help="RUN: the least time on named GPUs, part by part.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="RUN: the engine's layers, by kind and type.")] = False,
    json_file: Json = None,
) -> None:  # fmt: skip
    """Measure: surgery and engine build beside loading and saving the file, or the latency of a build."""
    from onnxgraft.cli.console import show, working, write_figures
    from onnxgraft.tools.benchmark.latency import latency
    from onnxgraft.tools.benchmark.surgery import surgery

    if run is not None and (model or precision or masks):
        what = "--model" if model else "--precision" if precision else "--masks"
        raise InputError(f"{what} has no effect on a build folder: leave out one of the two")
    if masks and (model or precision):
        raise InputError(f"{'--model' if model else '--precision'} has no effect with --masks: leave out one of the two")
    if pictures and not end_to_end:
        raise InputError("--pictures has no effect here: give --end-to-end")
    if not precision and (calib_images is not None or size is not None):
        raise InputError(f"{'--size' if size else '--calib-images'} has no effect here: give --precision")
    parts = {"--floor": floor, "--layers": layers, "--end-to-end": end_to_end}
    asked = [name for name, wanted in parts.items() if wanted]
    if run is None and asked:
        raise InputError(f"{asked[0]} has no effect without a build folder: give RUN")
    model = model or "mask_rcnn_R_50_FPN_3x"
    if run is not None and asked:
        tables = _bench_parts(run, asked, repeat, pictures)
    elif masks:
        tables = [_bench_masks(repeat)]
    elif precision:
        tables = _bench_precision(model, repeat, 10 if calib_images is None else calib_images, size or Size(1344, 1344))
    else:
        with working("measuring") as progress:
            tables = [latency(run, repeat, progress) if run else surgery(model, repeat, progress)]
    if json_file is not None:
        write_figures(json_file, [[dict(zip(rows[0], row, strict=True)) for row in rows[1:]] for rows in tables])
    if str(json_file) != "-":
        for rows in tables:
            show(rows)


MANY = 200  # images of a second calibration, to see that memory does not grow


def _bench_parts(run: Path, asked: list[str], repeat: int, pictures: list[int] | None) -> list[list[tuple[str, ...]]]:
    """What each part of a build computes and takes at least on named GPUs, the layers of its engine, and each step of a
    picture's way, as tables: those that are asked for."""
    from onnxgraft.cli.console import working
    from onnxgraft.tools.benchmark import end_to_end as steps
    from onnxgraft.tools.benchmark import floor as least
    from onnxgraft.tools.benchmark import layers as engine

    with working("measuring") as progress:
        tables = list(least.floor(run, progress)[:2]) if "--floor" in asked else []
        tables += [engine.layers(run, progress)] if "--layers" in asked else []
        if "--end-to-end" in asked:
            tables.append(steps.end_to_end(run, pictures or steps.PICTURES, repeat, progress))
        return tables


def _bench_masks(repeat: int) -> list[tuple[str, ...]]:
    """100 masks pasted, encoded and drawn, beside detectron2 and pycocotools where they are installed, as a table."""
    from onnxgraft.cli.console import working
    from onnxgraft.tools.benchmark.masks import masks

    with working("measuring") as progress:
        return masks(repeat, progress=progress)


def _bench_precision(model: str, repeat: int, images: int, size: Size) -> list[list[tuple[str, ...]]]:
    """Calibration beside onnxruntime.quantization's, and latencies of raw export, fp32 and int8, as tables."""
    from onnxgraft.cli.console import bar
    from onnxgraft.tools.benchmark.calibration import calibration
    from onnxgraft.tools.benchmark.latency import latencies

    with bar("measuring") as progress:

        def tell(what: str) -> None:
            progress(0, 0, what)

        tables = [latencies(model, repeat, size, tell)]
        if images:
            tables.append(calibration(model, images, MANY, size, tell))
    return tables


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    add(app, inspect, examples=("onnxgraft inspect model.onnx",))
    add(app, infer, works=True, examples=(
        "onnxgraft infer out photo.jpg --json out.json --draw drawn",
        "onnxgraft infer out photos/ 'more/*.png' clip.mp4 --json out.json --txt txt",
    ))  # fmt: skip
    add(app, sizes, works=True, examples=("onnxgraft sizes photos/",))
    add(app, verify, works=True, examples=("onnxgraft verify out --images photo.jpg",))
    add(app, bench, works=True, examples=("onnxgraft bench out", "onnxgraft bench out --floor --json -"))
