"""The command that compiles a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxgraft.cli.options import add
from onnxgraft.cli.parameters import Model
from onnxgraft.options import Options

_LINE = 240  # characters of trtexec's line that are shown


def build(
    model: Model,
    options: Options,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Build folder [build/MODEL/PRECISION].")] = None,
) -> None:
    """Compile MODEL into a build folder: model.onnx, engine, a diff per pass, report, manifest."""
    from onnxgraft.cli.console import out, working
    from onnxgraft.driver.compile import compile
    from onnxgraft.instruments import PrintText

    def write(words: str) -> None:
        out.print(words, markup=False, soft_wrap=True, end="")

    printers = [PrintText(write, options.print_after)] if options.print_after or options.print_changed else []
    output = output or Path("build") / Path(model).stem / options.precision
    with working(f"building {output}", _as_before(output)) as progress:
        made = compile(model, output, options, instruments=printers, progress=progress)
    for note in made.manifest.notes:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(_build_line(made), soft_wrap=True)
    if made.manifest.engine is None and made.manifest.trtexec:
        out.print(_elsewhere(made), markup=False, soft_wrap=True)
    for name in made.manifest.variants:
        out.print(f"{made.folder}/variants/{name}: the same for another canvas or batch", soft_wrap=True)
    if made.proof is not None:
        out.print(str(made.proof), soft_wrap=True)


def _as_before(folder: Path) -> float | None:
    """The seconds that the build that is there now took; None without one."""
    from onnxgraft.errors import InputError
    from onnxgraft.manifest import Times

    try:
        return Times.read(folder).total
    except InputError:
        return None


def _build_line(made: Any) -> str:
    manifest, name = made.manifest, made.manifest.engine
    what = f"{name} ({manifest.sizes[name] / 2**20:.1f} MiB) for {manifest.target}" if name else "model.onnx, no engine"
    records = made.report.records
    if not (made.folder / "passes").is_dir():
        return f"{made.folder}: {what}; {len(records)} passes ran without checks"
    return f"{made.folder}: {what}; {sum(record.changed for record in records)} of {len(records)} passes changed the graph"


def _elsewhere(made: Any) -> str:
    """How the engine that was not built here is built where its TensorRT is."""
    line = made.manifest.trtexec
    shown = line if len(line) <= _LINE else f"{line[:_LINE]}... (whole in {made.folder}/manifest.json)"
    return f"in {made.folder}, where the engine is to run: {shown}"


def options(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of the docs.")] = False,
) -> None:
    """List the options of build: values, defaults, the passes that take them, the commands that offer them."""
    import sys

    from onnxgraft.cli.console import show
    from onnxgraft.cli.options import markdown, table

    if as_markdown:
        sys.stdout.write(markdown())
    else:
        show(table())


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    add(app, build, works=True, examples=(
        "onnxgraft build model.onnx",
        "onnxgraft build model.onnx --precision fp16 --size 800x1344 -o out",
        "onnxgraft build model.onnx --size 800x1344,1344x800 --batch 1,8 --exact-padding",
        "onnxgraft build model.onnx --precision int8 --calib pictures/",
    ))  # fmt: skip
    add(app, options, examples=("onnxgraft options", "onnxgraft options --markdown > options.md"))
