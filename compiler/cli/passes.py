"""The commands that show what passes did: diff, report, bisect, passes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType

Stat = Annotated[bool, typer.Option("--stat", help="Count lines only.")]
Ops = Annotated[bool, typer.Option("--ops", help="Count operators only.")]
Full = Annotated[bool, typer.Option("--full", help="Show what did not change, too.")]
Load = Annotated[list[str] | None, typer.Option(help="A Python file with passes of yours (repeatable).")]

out = Console(highlight=False, soft_wrap=True)


def diff(
    first: Annotated[Path, typer.Argument(metavar="RUN|A.onnx", help="A build folder, or a model.")],
    second: Annotated[str | None, typer.Argument(metavar="PASS|B.onnx", help="A pass, or another model.")] = None,
    stat: Stat = False,
    ops: Ops = False,
    full: Full = False,
) -> None:
    """Show what passes changed: the list of a build's passes, one pass's diff, or the diff of two models."""
    from onnxgraft.tools.diff import show

    for part in show(first, second, stat=stat, ops=ops, full=full):
        emit(part)


def report(
    run: Annotated[Path, typer.Argument(help="A build folder, or the reproducer of a build that failed.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the page goes [RUN/report.html].")] = None,
) -> None:
    """Write the page that shows every pass: one file, no network."""
    from onnxgraft.report.html import write_report

    emit(str(write_report(run, output)))


def bisect(
    model: Annotated[str, typer.Argument(help="An .onnx file, or the name of a golden graph (mask_rcnn).")],
    check: Annotated[str, typer.Option(help="A shell command that gets the ONNX file (at {} or last), or: parity.")],
    passes: Annotated[str | None, typer.Option(help="A pipeline instead of the default one.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave out a pass (repeatable).")] = None,
    load: Load = None,
    target: Annotated[str, typer.Option(help="The target whose default pipeline runs.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the input.")] = "1344x1344",
    images: Annotated[list[Path] | None, typer.Option(help="Pictures for parity (repeatable).")] = None,
    keep: Annotated[Path | None, typer.Option("-o", "--output", help="Keep the graphs around the culprit here.")] = None,
) -> None:
    """Find the first pass after which a check fails, in O(log n) runs of it."""
    from onnxgraft.cli.console import parse_size, working
    from onnxgraft.driver.compile import Request
    from onnxgraft.options import CompileOptions
    from onnxgraft.tools import bisect as bisection
    from onnxgraft.tools.verify import check_images

    height, width = parse_size(size)
    pictures = check_images(model, images or [], (height, width)) if check == bisection.PARITY else ()
    request = Request(
        target=target, options=CompileOptions(precision=precision, height=height, width=width), passes=passes,
        skip=tuple(skip or ()), load=tuple(load or ()), numeric_images=pictures,
    )  # fmt: skip
    with working("bisecting") as progress:
        found = bisection.bisect(model, check, request, keep, progress)
    for stage, good in found.runs:
        emit(f"{'good' if good else 'BAD '}  {stage}")
    emit(str(found))
    if found.before is not None:
        emit(f"onnxgraft diff {found.before} {found.after}")


def passes(
    name: Annotated[str | None, typer.Argument(help="One pass only.")] = None,
    load: Load = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the docs.")] = False,
) -> None:
    """Document the passes: what they do, options with types and defaults, facts, an example."""
    from onnxgraft.passes.default import known_passes
    from onnxgraft.pipeline.docs import describe, describe_all, markdown
    from onnxgraft.report.terminal import pass_doc

    registry = known_passes(load or ())
    docs = [describe(registry[name])] if name else describe_all(registry)
    if as_markdown:
        sys.stdout.write(markdown(docs))
        return
    for doc in docs:
        emit(pass_doc(doc))


def emit(part: RenderableType) -> None:
    """Plain text bypasses rich in a pipe, so that long lines stay whole."""
    if out.is_terminal:
        out.print(part)
        return
    wide = Console(highlight=False, soft_wrap=True, width=400, color_system=None, file=sys.stdout)
    with wide.capture() as captured:
        wide.print(part)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


def register(app: typer.Typer) -> None:
    for command in (diff, report, bisect, passes):
        app.command()(command)


