"""What `onnxgraft diff` shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType

from onnxgraft.atomic import is_folder
from onnxgraft.errors import InputError
from onnxgraft.ir.textdiff import model_texts, unified
from onnxgraft.report.reader import read_run
from onnxgraft.report.terminal import coloured, ops_table, pass_table, stat_line, stat_table, summary_line


def show(
    first: Path, second: str | None, *, stat: bool = False, ops: bool = False, full: bool = False
) -> Iterator[RenderableType]:
    """The parts to print for a build, one of its passes, or two models. Raises InputError."""
    if is_folder(first):
        run = read_run(first)
        if second is None:
            whole = (run.passes[0].before, run.passes[-1].after) if run.passes else ("", "")
            yield stat_table(run) if stat else ops_table(*whole) if ops else pass_table(run)
            return
        row = run[second]
        what, before, after, names = summary_line(row), row.before, row.after, (f"before/{row.name}", f"after/{row.name}")
        if not stat and not ops:
            yield what
    else:
        if not first.is_file():
            raise InputError(f"{first}: no such build folder or model")
        if second is None:
            raise InputError(f"{first}: a model is compared with another one: onnxgraft diff A.onnx B.onnx")
        if not Path(second).is_file():
            raise InputError(f"{second}: no such model")
        what, names = f"{first} > {second}", (str(first), second)
        before, after = model_texts(first, second)
    if ops:
        yield ops_table(before, after)
        return
    changes = unified(before, after, *names, full)
    if stat:
        yield stat_line(what, changes)
    else:
        yield coloured(changes.rstrip("\n")) if changes else "no change"
