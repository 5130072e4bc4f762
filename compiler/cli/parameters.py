"""Parameters that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxgraft.options import Count

Model = Annotated[str, typer.Argument(help="An .onnx file, or the name of a golden graph (mask_rcnn).")]
Run = Annotated[Path, typer.Argument(help="A build folder.")]
Engine = Annotated[
    Literal["auto", "onnxruntime", "required"],
    typer.Option(help="What runs: the engine where it can, always ONNX Runtime, or the engine or nothing."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file; - prints them instead.")]
Limit = Annotated[Count | None, typer.Option(help="At most so many pictures.")]
