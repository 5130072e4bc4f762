"""When a pass fails, leaves a folder from which the failure can be replayed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import versions
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import told


class Reproducer(Instrument):
    """Writes the input graph, the pipeline up to the failing pass, versions, the error and the command to replay it.

    Passes share a context (what was recognised, which tensor is what), so a replay starts from the model and runs every
    pass up to the one that failed. `before.onnx` is the graph that the failing pass got, for reading.

    Args:
        folder: where it is written.
        source: the model.
        load: files of passes that the pipeline needs.
        images: uint8 [H, W, 3], what the numeric check compares on; written beside the command.
        files: other options of the build that name a file, such as {"--calib": folder}.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        load: tuple[str, ...] = (),
        images: Sequence[NDArray[np.uint8]] = (),
        files: Mapping[str, Path | None] | None = None,
    ) -> None:
        self.folder = folder
        self.source = source
        self.load = load
        self.images = images
        self.files = files or {}
        self._specs: list[str] = []
        self.written = False

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        self._specs.append(step.spec())
        self._before = graph.skeleton()

    def failed(self, step: Pass, graph: Graph, ctx: Context, error: BaseException) -> None:
        from onnxgraft.ir.serde import write_model

        self.written = True
        self.folder.mkdir(parents=True, exist_ok=True)
        pipeline = ",".join(self._specs)
        write_model(self._before, self.folder / "before.onnx")
        (self.folder / "pipeline.txt").write_text(pipeline + "\n")
        words = [
            "onnxgraft",
            "build",
            str(self.source.absolute()),
            "--passes",
            pipeline,
            "--no-engine",
            "-o",
            "replayed",
        ]
        for path in self.load:
            words += ["--load", str(Path(path).absolute())]
        for option, place in self.files.items():
            words += [option, str(place.absolute())] if place else []
        if self.images:
            height, width = self.images[0].shape[:2]
            words += ["--check-numerics", "--size", f"{height}x{width}"]
        for index, image in enumerate(self.images):
            name = f"image_{index}.png"
            cv2.imwrite(str(self.folder / name), image)
            words += ["--images", name]
        command = shlex.join(words)
        (self.folder / "replay.sh").write_text(f'#!/bin/sh\ncd "$(dirname "$0")" && {command}\n')
        (self.folder / "replay.sh").chmod(0o755)
        info = {"pass": step.name(), "error": told(error), "command": command, "versions": versions(),
                "spec": ctx.detector.to_dict() if ctx.detector else None}  # fmt: skip
        (self.folder / "reproducer.json").write_text(json.dumps(info, indent=2, default=float) + "\n")


