"""The console that every command prints to, its spinner, bar and tables. Imported by commands when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a changing word, on a terminal only."""
    if not err.is_terminal:
        yield lambda word: None
        return
    with err.status(what) as status:
        yield lambda word: status.update(f"{what}: {word}")


def say(line: str) -> None:
    """Print a line as it is: a file's name may look like markup."""
    out.print(line, markup=False, soft_wrap=True)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A progress bar with count and time left, on a terminal only; without a total it has no end."""
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


def emit(part: RenderableType) -> None:
    """Plain text bypasses rich in a pipe, so that long lines stay whole."""
    if out.is_terminal:
        out.print(part, soft_wrap=True)
        return
    wide = Console(highlight=False, soft_wrap=True, width=400, color_system=None, file=sys.stdout)
    with wide.capture() as captured:
        wide.print(part)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
