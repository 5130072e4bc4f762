"""When a pass fails, leaves a folder from which the failure can be replayed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.files import write_json
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.writing import write_model
from onnxgraft.manifest import versions
from onnxgraft.options import BuilderOptions, Options, as_flags, declared, without_effect
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import told

_REPLACED = {"passes", "skip", "stop_after", "print_after", "print_changed", "engine", "check_numerics", "images", "size"}


class Reproducer(Instrument):
    """Writes the input graph, the pipeline up to the failing pass, versions, the error and the command to replay it.

    Passes share a context (what was recognised, which tensor is what), so a replay starts from the model and runs every
    pass up to the one that failed. `before.onnx` is the graph that the failing pass got, for reading.

    Args:
        folder: where it is written.
        source: the model.
        options: what the build was asked for; a replay asks for the same.
        images: uint8 [H, W, 3], what the numeric check compares on; written beside the command.
    """

    def __init__(
        self, folder: Path, source: Path, options: Options | None = None, images: Sequence[NDArray[np.uint8]] = ()
    ) -> None:
        self.folder = folder
        self.source = source
        self.options = options or Options()
        self.images = images
        self._steps: list[Pass] = []
        self.written = False

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        self._steps.append(step)
        self._before = graph.observed(Graph.exported)

    def failed(self, step: Pass, graph: Graph, ctx: Context, error: BaseException) -> None:
        self.written = True
        self.folder.mkdir(parents=True, exist_ok=True)
        write_model(self._before.skeleton(), self.folder / "before.onnx")
        pipeline = ",".join(s.spec() for s in self._steps)
        (self.folder / "pipeline.txt").write_text(pipeline + "\n")
        for index, image in enumerate(self.images):
            cv2.imwrite(str(self.folder / _picture(index)), image)
        command = shlex.join(self._command(pipeline))
        (self.folder / "replay.sh").write_text(f'#!/bin/sh\ncd "$(dirname "$0")" && {command}\n')
        (self.folder / "replay.sh").chmod(0o755)
        info = {"pass": step.name(), "error": told(error), "command": command, "versions": versions(),
                "spec": ctx.detector.to_dict() if ctx.detector else None}  # fmt: skip
        write_json(self.folder / "reproducer.json", info)

    def _command(self, pipeline: str) -> list[str]:
        """The pipeline says what options of passes said; the others are given again, but for those of the engine."""
        words = ["onnxgraft", "build", str(self.source.absolute()), "--passes", pipeline, "--no-engine", "-o", "replayed"]
        idle = {option.name for option in without_effect(self.options, {s.name() for s in self._steps})}
        in_text = {option.name for option in declared(Options) if option.opt.to}
        engine = {option.name for option in declared(BuilderOptions)}
        words += as_flags(self.options, _REPLACED | idle | in_text | engine)
        if self.images:
            height, width = self.images[0].shape[:2]
            words += ["--check-numerics", "--size", f"{height}x{width}"]
        for index in range(len(self.images)):
            words += ["--images", _picture(index)]
        return words


def _picture(index: int) -> str:
    return f"image_{index}.png"
