"""The commands that show what passes did and what there is: diff, report, bisect, passes, plugins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Model
from onnxgraft.errors import InputError
from onnxgraft.options import Options

Stat = Annotated[bool, typer.Option("--stat", help="Count lines only.")]
Ops = Annotated[bool, typer.Option("--ops", help="Count operators only.")]
Full = Annotated[bool, typer.Option("--full", help="Show what did not change, too.")]


def diff(
    first: Annotated[Path, typer.Argument(metavar="RUN|A.onnx", help="A build folder, or a model.")],
    second: Annotated[str | None, typer.Argument(metavar="PASS|B.onnx", help="A pass, or another model.")] = None,
    stat: Stat = False,
    ops: Ops = False,
    full: Full = False,
) -> None:
    """Show what passes changed: the list of a build's passes, one pass's diff, or the diff of two models."""
    from onnxgraft.cli.console import emit
    from onnxgraft.tools.diff import show

    for part in show(first, second, stat=stat, ops=ops, full=full):
        emit(part)


def report(
    run: Annotated[Path, typer.Argument(help="A build folder, or the reproducer of a build that failed.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the page goes [RUN/report.html].")] = None,
) -> None:
    """Write the page that shows every pass: one file, no network."""
    from onnxgraft.cli.console import emit
    from onnxgraft.report.html import write_report

    emit(str(write_report(run, output)))


def bisect(
    model: Model,
    check: Annotated[str, typer.Option(help="A shell command that gets the ONNX file (at {} or last), or: parity.")],
    options: Options,
    keep: Annotated[Path | None, typer.Option("-o", "--output", help="Keep the graphs around the culprit here.")] = None,
) -> None:
    """Find the first pass after which a check fails, in O(log n) runs of it."""
    from onnxgraft.cli.console import emit, working
    from onnxgraft.tools import bisect as bisection

    if options.images and check != bisection.PARITY:
        raise InputError("--images has no effect here: give --check parity")
    with working("bisecting") as progress:
        found = bisection.bisect(model, check, options, keep=keep, progress=progress)
    for stage, good in found.runs:
        emit(f"{'good' if good else 'BAD '}  {stage}")
    emit(str(found))
    if found.before is not None:
        emit(f"onnxgraft diff {found.before} {found.after}")


def passes(
    options: Options,
    name: Annotated[str | None, typer.Argument(help="One pass only.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the docs.")] = False,
) -> None:
    """Document the passes: what they do, options with types and defaults, facts, an example."""
    from onnxgraft.cli.console import emit
    from onnxgraft.passes.default import known_passes
    from onnxgraft.pipeline.docs import describe, describe_all, markdown
    from onnxgraft.report.terminal import pass_doc

    registry = known_passes(options.load)
    docs = [describe(registry[name])] if name else describe_all(registry)
    if as_markdown:
        sys.stdout.write(markdown(docs))
        return
    for doc in docs:
        emit(pass_doc(doc))


def plugins(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of the docs.")] = False,
) -> None:
    """List the plugin operators: versions, the targets that have them, inputs."""
    from onnxgraft.cli.console import show
    from onnxgraft.plugins.docs import markdown, table

    if as_markdown:
        sys.stdout.write(markdown())
    else:
        show(table())


def releases(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of the docs.")] = False,
) -> None:
    """List the releases of TensorRT that --for takes, and what they differ in."""
    from onnxgraft.cli.console import show
    from onnxgraft.targets.release_table import markdown, table

    if as_markdown:
        sys.stdout.write(markdown())
    else:
        show(table())


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    add(app, diff, examples=("onnxgraft diff out", "onnxgraft diff out box-nms", "onnxgraft diff a.onnx b.onnx --ops"))
    add(app, report, examples=("onnxgraft report out", "onnxgraft report out -o page.html"))
    add(app, bisect, works=True, target="onnxruntime", examples=(
        "onnxgraft bisect model.onnx --check parity --images photo.jpg",
    ))  # fmt: skip
    add(app, passes, examples=("onnxgraft passes box-nms",))
    add(app, plugins, examples=("onnxgraft plugins",))
    add(app, releases, examples=("onnxgraft releases",))
