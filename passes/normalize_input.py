"""Puts the image's normalisation into the graph in one form, and offers other inputs: RGB, uint8, NHWC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Constant, Value, constant, where
from onnxgraft.manifest import IMAGE_SIZES, ImageIO
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NORMALIZED_INPUT, STATIC_INPUT, Fact

INPUT_NAME = "input_tensor"  # as NVIDIA's sample calls it


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
        x = builder.of(image)
        if self.dtype == "uint8":
            x = x.cast(np.float32).named("float")
        if self.layout == "NHWC":
            x = x.transpose(0, 3, 1, 2).named("nchw")
        if order != spec.order:
            x = x.take(constant("flip", [2, 1, 0]), axis=1).named(spec.order.lower())
        x = (x - _per_channel("mean", spec.mean)).named("centred")
        if any(s != 1.0 for s in spec.std):
            x = (x / _per_channel("std", spec.std)).named("scaled")
        if self.image_sizes:
            sizes = gs.Variable(IMAGE_SIZES, np.float32, [n, 2])
            x = _zero_outside(builder, x, builder.of(sizes), n, h, w)
            graph.gs.inputs.append(sizes)
        graph.replace(old, x.handle)
        graph.gs.inputs[0] = image
        ctx.values.normalized = x.name
        taken = ImageIO(INPUT_NAME, tuple(shape), self.dtype, self.layout, "RGB" if order == "RGB" else "BGR")
        ctx.io = replace(ctx.io, input=taken, image_sizes=self.image_sizes)
        graph.cleanup()


def _per_channel(hint: str, numbers: tuple[float, float, float]) -> Constant:
    return constant(hint, np.array(numbers, np.float32).reshape(1, 3, 1, 1))


def _zero_outside(b: Builder, x: Value, sizes: Value, n: int, h: int, w: int) -> Value:
    """Zero the pixels of [N, 3, H, W] below and right of each image's true size, float32 [N, 2] as height and width."""
    inside: list[Value] = []
    for column, extent, shape in ((0, h, (1, 1, h, 1)), (1, w, (1, 1, 1, w))):
        bound = sizes.take(constant("column", [column]), axis=1).named("size").reshape(n, 1, 1, 1).named("bound")
        ramp = b.of(b.floats("ramp", np.arange(extent, dtype=np.float32).reshape(shape)))
        inside.append((ramp < bound).named("inside"))
    valid = (inside[0] & inside[1]).named("valid")
    return where(valid, x, constant("zero", 0.0)).named("padded_with_zero")
