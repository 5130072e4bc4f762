"""The file's graph and the compiled one side by side: where a tensor of the spec is in both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import IMAGE_SIZES
from onnxgraft.pipeline.context import Context
from onnxgraft.proof import parts
from onnxgraft.proof.parts import Port


@dataclass
class Sides:
    """The file's graph after folding at the build's size (one image), the compiled one with plugin ops as functions."""

    file: Graph
    build: Graph
    ctx: Context

    def __post_init__(self) -> None:
        self.spec: DetectorSpec = self.ctx.spec()
        self._tensors = {t.name: t for t in self.build.gs.inputs}
        self._tensors |= {t.name: t for node in self.build.nodes for t in node.outputs}
        self._of_file = {t.name: t for t in self.file.gs.inputs}
        self._of_file |= {t.name: t for node in self.file.nodes for t in node.outputs}

    def now(self, name: str) -> str:
        """The compiled graph's name for a tensor of the spec: its own where it is still there, else what took its place."""
        return name if name in self._tensors else self.ctx.current(name)

    def tensor(self, name: str) -> gs.Tensor:
        """A tensor of the compiled graph."""
        return self._tensors[name]

    def file_tensor(self, name: str) -> gs.Tensor:
        """A tensor of the file's graph."""
        return self._of_file[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of the compiled graph; -1 where a dimension is not known."""
        known = self._tensors[name].shape if name in self._tensors else None
        return tuple(d if isinstance(d, int) else -1 for d in known or ())

    def port(self, role: str, name: str, lay: parts.Layout) -> Port:
        """A tensor of the spec on both sides."""
        now = self.now(name)
        return Port(role, name, now, lay, self.shape(now))

    def site(self, role: str, name: str, lay: parts.Layout, file: str | None = None) -> Port:
        """A tensor that passes made for all images, and what it stands for in the file."""
        return Port(role, file, name, lay, self.shape(name))

    @property
    def graphs(self) -> tuple[Graph, Graph]:
        return self.file, self.build

    def whole_canvas(self) -> list[Port]:
        """The true size of each image, where that is an input: all of the canvas."""
        if not self.ctx.io.image_sizes:
            return []
        image = self.spec.image
        size = np.array([image.height, image.width], np.float32)
        return [Port("", None, IMAGE_SIZES, lambda _, shape: np.broadcast_to(size, shape), self.shape(IMAGE_SIZES))]


def with_rows(port: Port, number: int) -> Port:
    """A port whose build's tensor has so many rows."""
    return Port(port.role, port.file, port.build, port.lay, (number, *port.shape[1:]))
