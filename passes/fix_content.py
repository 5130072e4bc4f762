"""Makes the size of the picture on the canvas a constant, for sources that all have one size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError
from onnxgraft.ir.folding import fold
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import IMAGE_SIZES
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NAMED_OUTPUTS, Fact


@dataclass(frozen=True, kw_only=True)
class FixContent(Pass):
    """Put the true size of each image into the graph instead of the input image_sizes.

    With mask-padding before it the answers do not depend on what lies below and right of that size: pictures are as large on
    the canvas, and a server may fill the rest with black, as nvinfer does, where detectron2 has the mean. Legal when (1)
    image sizes are an input (normalize-input{image-sizes=true}), (2) the size fits the canvas.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (NAMED_OUTPUTS,)
    modifies: ClassVar[tuple[str, ...]] = ("inputs",)

    height: int = 1344
    width: int = 1344

    def run(self, graph: Graph, ctx: Context) -> None:
        if not ctx.io.image_sizes:
            raise InputError("fix-content: needs the image sizes as an input; build with --content-size")
        height, width = ctx.io.image.canvas
        if not (0 < self.height <= height and 0 < self.width <= width):
            raise InputError(f"fix-content: {self.height}x{self.width} is no part of the canvas of {height}x{width}")
        sizes = next(t for t in graph.gs.inputs if t.name == IMAGE_SIZES)
        graph.gs.inputs.remove(sizes)
        values = np.tile(np.array([self.height, self.width], np.float32), (ctx.batch, 1))
        constant = gs.Constant(graph.fresh(IMAGE_SIZES), values)
        graph.redirect(list(sizes.outputs), sizes, constant)
        ctx.count("folded", fold(graph, shapes=False))
        graph.cleanup()
        ctx.io = replace(ctx.io, image_sizes=False, content=(self.height, self.width))
