"""The console that every command prints to, its spinner, and words that become values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onnxgraft.errors import InputError

Model = Annotated[str, typer.Argument(help="An .onnx file, or the name of a golden graph (mask_rcnn).")]
Run = Annotated[Path, typer.Argument(help="A build folder.")]

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


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise InputError(f"--size {text!r}: write HEIGHTxWIDTH, such as 1344x1344")
    return int(height), int(width)
