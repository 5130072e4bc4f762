"""The command that hands a build over: package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Run
from onnxgraft.errors import InputError
from onnxgraft.options import Count


def package(
    run: Run,
    triton: Annotated[
        Path | None, typer.Option(help="A model repository of Triton Inference Server; other models of it stay.")
    ] = None,
    cpp: Annotated[Path | None, typer.Option(help="A folder for a C++ program: ONNX Runtime or TensorRT, OpenCV.")] = None,
    deepstream: Annotated[
        Path | None, typer.Option(help="A folder for DeepStream: nvinfer's configuration, labels, the parser's source.")
    ] = None,
    serve: Annotated[
        Literal["auto", "engine", "onnx"],
        typer.Option(help="What is served: TensorRT's engine where the build has one, or ONNX on the CPU."),
    ] = "auto",
    class_names: Annotated[Path | None, typer.Option(help="A file of class names instead of the build's.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Triton: the name it is served under; that of the file that was compiled.")
    ] = None,
    instances: Annotated[Count | None, typer.Option(help="Triton: instances that run side by side; 1.")] = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Triton: add a model that takes the bytes of a JPEG or PNG.")
    ] = False,
) -> None:
    """Write what others need to run a build: a server's repository, a program, its sources and a client."""
    from onnxgraft.cli.console import out
    from onnxgraft.deploy import cpp as cpp_program
    from onnxgraft.deploy import deepstream as deepstream_folder
    from onnxgraft.deploy import triton as triton_repository
    from onnxgraft.deploy.build import Packed

    if triton is None and cpp is None and deepstream is None:
        raise InputError("give what it is packed for: --triton, --cpp or --deepstream, each with a folder")
    for flag, value in (("--name", name), ("--instances", instances), ("--ensemble", ensemble or None)):
        if value is not None and triton is None:
            raise InputError(f"{flag} has no effect here: give --triton too")
    wanted = {"auto": None, "engine": True, "onnx": False}[serve]
    written: list[Path] = []
    if triton is not None:
        packed = Packed.of(run, name, wanted, classes=class_names)
        written += triton_repository.write(packed, triton, instances or 1, ensemble)
    if cpp is not None:
        written += cpp_program.write(Packed.of(run, None, wanted, cpp_program.ENGINES, class_names), cpp)
    if deepstream is not None:
        written += deepstream_folder.write(Packed.of(run, None, wanted, classes=class_names), deepstream)
    for folder in written:
        out.print(str(folder), soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add(
        app,
        package,
        examples=(
            "onnxgraft package out --triton models --ensemble",
            "onnxgraft package out --cpp detector",
            "onnxgraft package out --deepstream detector",
        ),
    )
