"""Puts the image's normalisation into the graph in one form, and offers other inputs: RGB, uint8, NHWC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NORMALIZED_INPUT, STATIC_INPUT, Fact

INPUT_NAME = "input_tensor"  # as NVIDIA's sample calls it
SIZES_NAME = "image_sizes"


@dataclass(frozen=True, kw_only=True)
class NormalizeInput(Pass):
    """Normalise inside the graph: (image - mean) / std, with mean and std as found in the export.

    Legal when (1) order is model, BGR or RGB, layout is NCHW or NHWC, dtype is float32 or uint8. `image-sizes` adds a
    second input [N, 2] with the true height and width of each image on the canvas: what lies outside becomes zero
    after normalisation, and boxes are clipped where detectron2 clips them.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (STATIC_INPUT,)
    provides: ClassVar[tuple[Fact | str, ...]] = (NORMALIZED_INPUT,)
    modifies: ClassVar[tuple[str, ...]] = ("inputs",)

    order: Literal["model", "BGR", "RGB"] = "model"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "uint8"] = "float32"
    image_sizes: bool = False

    def run(self, graph: Graph, ctx: Context) -> None:
        spec = ctx.spec().image
        n, h, w = ctx.batch, spec.height, spec.width
        order = spec.order if self.order == "model" else self.order
        old = graph.tensor(ctx.values.normalized)
        builder = Builder(graph, "normalize", [ctx.values.image])
        shape = [n, 3, h, w] if self.layout == "NCHW" else [n, h, w, 3]
        image = gs.Variable(INPUT_NAME, np.dtype(self.dtype), shape)
        x: gs.Tensor = image
        if self.dtype == "uint8":
            x = builder.op("Cast", [x], "float", shape=shape, to=1)
        if self.layout == "NHWC":
            x = builder.op("Transpose", [x], "nchw", shape=[n, 3, h, w], perm=[0, 3, 1, 2])
        if order != spec.order:
            x = builder.op(
                "Gather", [x, builder.ints("flip", [2, 1, 0])], spec.order.lower(), shape=[n, 3, h, w], axis=1
            )
        x = builder.op("Sub", [x, _per_channel(builder, "mean", spec.mean)], "centred", shape=[n, 3, h, w])
        if any(s != 1.0 for s in spec.std):
            x = builder.op("Div", [x, _per_channel(builder, "std", spec.std)], "scaled", shape=[n, 3, h, w])
        if self.image_sizes:
            sizes = gs.Variable(SIZES_NAME, np.float32, [n, 2])
            x = _zero_outside(builder, x, sizes, n, h, w)
            graph.gs.inputs.append(sizes)
        graph.replace(old, x)
        graph.gs.inputs[0] = image
        ctx.values.normalized = x.name
        ctx.io["input"] = {
            "name": INPUT_NAME, "shape": shape, "dtype": self.dtype, "layout": self.layout, "order": order,
        }  # fmt: skip
        ctx.io["image_sizes"] = self.image_sizes
        graph.cleanup()


def _per_channel(builder: Builder, hint: str, numbers: tuple[float, float, float]) -> gs.Constant:
    return builder.floats(hint, np.array(numbers, np.float32).reshape(1, 3, 1, 1))


def _zero_outside(builder: Builder, x: gs.Tensor, sizes: gs.Tensor, n: int, h: int, w: int) -> gs.Tensor:
    """Zero the pixels below and right of each image's true size."""
    inside: list[gs.Tensor] = []
    for column, extent, shape, target in ((0, h, [1, 1, h, 1], [n, 1, h, 1]), (1, w, [1, 1, 1, w], [n, 1, 1, w])):
        bound = builder.op("Gather", [sizes, builder.ints("column", [column])], "size", shape=[n, 1], axis=1)
        bound = builder.op("Reshape", [bound, builder.ints("shape", [n, 1, 1, 1])], "bound", shape=[n, 1, 1, 1])
        ramp = builder.floats("ramp", np.arange(extent, dtype=np.float32).reshape(shape))
        inside.append(builder.op("Less", [ramp, bound], "inside", dtype=np.bool_, shape=target))
    both = builder.op("And", inside, "valid", dtype=np.bool_, shape=[n, 1, h, w])
    zero = builder.floats("zero", 0.0)
    return builder.op("Where", [both, x, zero], "padded_with_zero", shape=[n, 3, h, w])
