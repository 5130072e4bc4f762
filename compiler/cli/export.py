"""The command that makes a model out of a detectron2 config: arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxgraft.cli.options import add
from onnxgraft.options import Count, Size


def register(app: typer.Typer) -> None:
    """Add `export` to the command line."""
    add(app, export, works=True, examples=(
        "onnxgraft export COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml -o model.onnx",
        "onnxgraft export config.yaml --weights model_final.pth -o model.onnx",
    ))  # fmt: skip


def export(
    config: Annotated[str, typer.Argument(help="A detectron2 config: .yaml, LazyConfig .py, or a name in its model zoo.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY VALUE]...", help="Settings of the config.")] = None,
    weights: Annotated[str | None, typer.Option(help="A .pkl or .pth file, or random [the config's].")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The model; its sidecar goes beside it.")] = Path("model.onnx"),
    opset: Annotated[Count | None, typer.Option(help="[16, or 19 for deformable convolution].")] = None,
    size: Annotated[Size | None, typer.Option(help="The size to trace with; build fixes its own. [640x640]")] = None,
    image: Annotated[Path | None, typer.Option(help="Any picture to trace with, instead of none.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Load weights that hold more than numbers: runs their author's code.")]
    = False,
) -> None:
    """Export a detectron2 model to ONNX, with a sidecar of its numbers. Needs torch and detectron2."""
    from onnxgraft.cli.console import out, working
    from onnxgraft.frontends.detectron2.export import export as run_export

    with working(f"exporting {config}"):
        made = run_export(
            config, output, weights=weights, opset=opset, size=size, image=image,
            overrides=overrides or (), trust=trust,
        )  # fmt: skip
    for note in made.notes:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(f"{made.model}: {made.family}, opset {made.opset}; numbers in {made.sidecar.name}", soft_wrap=True)
