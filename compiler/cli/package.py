"""The command that hands a build over: package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Run
from onnxgraft.options import Count


def package(
    run: Run,
    triton: Annotated[Path, typer.Option(help="A model repository of Triton Inference Server; other models of it stay.")],
    name: Annotated[str | None, typer.Option(help="The name it is served under; that of the file that was compiled.")] = None,
    serve: Annotated[
        Literal["auto", "engine", "onnx"],
        typer.Option(help="What is served: TensorRT's engine where the build has one, or ONNX on the CPU."),
    ] = "auto",
    instances: Annotated[Count, typer.Option(help="Instances that run side by side.")] = 1,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Add a model that takes the bytes of a JPEG or PNG.")] = False,
) -> None:
    """Write what a server needs to serve a build: its model repository, labels, warm-up and a client."""
    from onnxgraft.cli.console import out
    from onnxgraft.deploy import triton as triton_repository
    from onnxgraft.deploy.build import Packed

    packed = Packed.of(run, name, {"auto": None, "engine": True, "onnx": False}[serve])
    for folder in triton_repository.write(packed, triton, instances, ensemble):
        out.print(str(folder), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add(app, package, examples=("onnxgraft package out --triton models --ensemble",))
