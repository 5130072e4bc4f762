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
    from onnxgraft.viewer.command import show

    for part in show(first, second, stat=stat, ops=ops, full=full):
        emit(part)


def report(
    run: Annotated[Path, typer.Argument(help="A build folder, or the reproducer of a build that failed.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the page goes [RUN/report.html].")] = None,
) -> None:
    """Write the page that shows every pass: one file, no network."""
    from onnxgraft.viewer import write_report

    emit(str(write_report(run, output)))


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
    for command in (diff, report):
        app.command()(command)


