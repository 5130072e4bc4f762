"""The program: its commands, and errors as one line."""

from __future__ import annotations

import importlib.metadata
import io
import os
import sys
import traceback
from typing import Annotated

import typer

from onnxgraft.cli import build, export, machine, package, passes, precision, stops, tools
from onnxgraft.cli.options import Program
from onnxgraft.errors import OnnxgraftError

_LONGEST = 2000  # characters of an error


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"onnxgraft {importlib.metadata.version('onnxgraft')}\n")
        raise typer.Exit()


app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help speaks of [defaults], which markup would swallow
    help="Compile detectron2 detectors exported to ONNX into TensorRT engines that give the same answers.",
    epilog="Set ONNXGRAFT_TRACEBACK=1 to see where an error comes from.",
)


@app.callback()
def program(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)]
    = False,
) -> None:
    pass


for commands in (build, tools, machine, package, export, passes, precision):
    commands.register(app)

def main() -> None:
    """Run a command: errors become one line and a non-zero exit code."""
    stops.raise_stops()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what this terminal's locale, or no text at all, has
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt as stop:
        _fail(stops.words(), stops.code_of(stop))
    except SystemExit as end:  # newer Typer turns the interrupt into a silent exit
        if end.code == 130:
            _fail(stops.words(), stops.code_of(end))
        raise
    except Exception as error:
        asked = stops.asked()
        if asked is not None:  # extension modules make another error of an interrupt
            _fail(stops.words(), stops.code_of(asked))
        _fail(_words_for(error), 1)


def _words_for(error: Exception) -> str:
    if isinstance(error, OnnxgraftError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory does not suffice for what these files and options ask for"
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read"
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {(error.strerror or str(error)).lower()}".lstrip(": ")
    what = f"{type(error).__name__}: {error}"[:300]
    return f"{what} (a fault of onnxgraft, not of your input: ONNXGRAFT_TRACEBACK=1 shows where)"


def _fail(message: str, code: int) -> None:
    if os.environ.get("ONNXGRAFT_TRACEBACK"):
        traceback.print_exc()
    sys.stderr.write(f"error: {one_line(message)}\n")
    sys.exit(code)


def one_line(message: str) -> str:
    """A message as a terminal may see it: names in it may be long, or hold what moves a cursor."""
    line = "".join(c if c.isprintable() or c.isspace() else c.encode("unicode_escape").decode() for c in message)
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
