"""The console that every command prints to, its spinner, bar and tables. Imported by commands when they run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from onnxgraft.files import write_json

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_PIPE = 400  # columns of a table that is no terminal's
_level = 0


def set_level(level: int) -> None:
    """-1: results and errors alone, no progress and no notes; 0; 1: what runs, each step in a line."""
    global _level
    _level = level
    out.quiet = level < 0


@contextmanager
def working(what: str, seconds: float | None = None) -> Iterator[Callable[[str], None]]:
    """A spinner with a changing word and the time, on a terminal only; with -v each word is a line of its own.

    seconds: how long it is to take, where that is known.
    """
    started = time.perf_counter()
    if _level > 0:
        yield lambda word: err.print(f"{time.perf_counter() - started:7.1f} s  {word}", markup=False, soft_wrap=True)
        err.print(f"{time.perf_counter() - started:7.1f} s  done")
        return
    if _level < 0 or not err.is_terminal:
        yield lambda word: None
        return
    expected = TextColumn(f"of about {seconds:.0f} s" if seconds else "")
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), expected)
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what)
        yield lambda word: progress.update(task, description=f"{what}: {word}")


def say(line: str) -> None:
    """Print a line as it is: a file's name may look like markup."""
    out.print(line, markup=False, soft_wrap=True)


def say_aside(line: str) -> None:
    """As `say`, on stderr: where stdout is for a program."""
    if _level >= 0:
        err.print(line, markup=False, soft_wrap=True)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar with count and time left, on a terminal only; without a total it has no end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn())  # fmt: skip
    hidden = _level < 0 or not err.is_terminal
    with Progress(*columns, console=err, disable=hidden, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def advance(done: int, total: int | None, name: str) -> None:
            progress.update(task, completed=done, total=total, description=f"{what} {name}")
            if _level > 0 and hidden:
                err.print(f"{what} {done} of {total or '?'} {name}", markup=False, soft_wrap=True)

        yield advance


def show(rows: list[tuple[str, ...]]) -> None:
    """Print a table; the first row is its heading, of which no word is cut."""
    columns = [Column(head, no_wrap=not i, min_width=max(map(len, head.split()), default=0)) for i, head in enumerate(rows[0])]
    table = Table(*columns, box=None)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    if not out.quiet:
        emit(table)


def write_figures(path: Path, figures: Any) -> None:
    """Figures as JSON into a file, or to stdout for `-`. Raises InputError."""
    if str(path) == "-":
        sys.stdout.write(json.dumps(figures, indent=1, default=float) + "\n")
    else:
        write_json(path, figures, indent=1)


def emit(part: RenderableType) -> None:
    """Plain text bypasses rich in a pipe, so that long lines stay whole."""
    if out.is_terminal:
        out.print(part, soft_wrap=True)
        return
    wide = Console(highlight=False, soft_wrap=True, width=_PIPE, color_system=None, file=sys.stdout)
    with wide.capture() as captured:
        wide.print(part)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
