"""Keeps what lies outside an image on the canvas from reaching its features, so that the canvas does not matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.analysis.reach import Reach, reaches
from onnxgraft.errors import InputError, Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ops import RESHAPING
from onnxgraft.ir.traverse import descendants
from onnxgraft.ir.value import Value, constant, where
from onnxgraft.manifest import IMAGE_SIZES
from onnxgraft.passes.decode_boxes import NEVER
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import NORMALIZED_INPUT, Fact

_OUTSIDE = {Reach.WINDOW: 0.0, Reach.HIGHEST: -3.0e38}


@dataclass(frozen=True, kw_only=True)
class MaskPadding(Pass):
    """Make the answers independent of the canvas around an image.

    detectron2 pads an image to the next multiple of 32 and no further; what a larger canvas holds beyond that is zero at
    the input, but not after the first bias. This pass gives every convolution (deformable ones too) and pooling zeros
    (the lowest value) there, as it does maps that are sampled at points; it rules out anchors there, and repeats the last
    row and column for RoIAlign, which clamps at the edge of a map, and for bilinear upsampling, which does so too. Legal
    when (1) image sizes are an input (normalize-input{image-sizes=true}), (2) every node up to the heads looks at one cell
    or at a window of it: nothing averages over the whole canvas (GroupNorm, squeeze and excitation) or lets distant cells
    meet (attention), (3) scores are no softmax of an anchor's logits (SSD), which the lowest ones for all classes do
    not silence.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (NORMALIZED_INPUT,)

    def run(self, graph: Graph, ctx: Context) -> None:
        if not ctx.io.image_sizes:
            raise InputError("mask-padding: needs the true image sizes; build with --image-sizes")
        _refuse_softmax(ctx)
        masks = _Masks(graph, ctx)
        trunk = _trunk(graph, ctx)
        known = reaches(trunk)
        filled: dict[tuple[int, Reach], gs.Tensor] = {}
        for node in trunk:
            tensor, reach = node.inputs[0], known[id(node)]
            if reach is Reach.CELL or (reach is Reach.WINDOW and tensor.name == ctx.values.normalized):
                continue
            key = id(tensor), reach
            if key not in filled:
                around = masks.repeat_edge(tensor) if reach is Reach.EDGE else masks.fill(tensor, _OUTSIDE[reach])
                filled[key] = around
                ctx.count("maps masked")
            node.inputs[0] = filled[key]
        spec = ctx.spec()
        for level in spec.anchor_levels():
            logits = graph.tensor(level.logits_tensor)
            ctx.replaced[logits.name] = _everywhere(graph, logits, masks.fill(logits, NEVER)).name
        for name in dict.fromkeys(name for pooler in spec.poolers() for name in pooler.feature_tensors):
            feature = graph.tensor(name)
            repeated = masks.repeat_edge(feature)
            graph.redirect([n for n in list(feature.outputs) if n.op == "RoiAlign"], feature, repeated)
            ctx.replaced[name] = repeated.name
            ctx.count("edges repeated")
        for each in (*spec.point_head.maps, *spec.point_head.point_maps) if spec.point_head else ():
            if each.feature_tensor not in ctx.values.point_maps:
                feature = graph.tensor(each.feature_tensor)
                samplers = [node for node in list(feature.outputs) if _is_sampled(node)]
                zeroed = masks.fill(feature, 0.0)
                graph.redirect(samplers, feature, zeroed)
                ctx.values.point_maps[each.feature_tensor] = zeroed.name
                ctx.count("maps masked")


def _refuse_softmax(ctx: Context) -> None:
    """Raises Refusal for SSD, whose every picture fills its canvas anyway."""
    dense = ctx.spec().dense
    if dense is not None and dense.first_class:
        raise Refusal("SSD's scores are a softmax of each anchor's logits, so none beside a picture can be ruled out by them; "
                      "it stretches every picture to its whole canvas: build without --exact-padding and --content-size",
                      dense.levels[0].logits_tensor)  # fmt: skip


def _trunk(graph: Graph, ctx: Context) -> list[gs.Node]:
    """Nodes between the image and the RPN's outputs and pooled maps."""
    spec = ctx.spec()
    after = descendants(graph.tensor(ctx.values.normalized))
    names = [*spec.dense_tensors(), *spec.feature_tensors(), *([spec.semantic.logits_tensor] if spec.semantic else [])]
    ends = [graph.tensor(name) for name in names]
    live: set[int] = set()
    stack = [t.inputs[0] for t in ends]
    while stack:
        node = stack.pop()
        if id(node) not in live and any(id(t) in after for t in node.inputs):
            live.add(id(node))
            stack += [t.inputs[0] for t in node.inputs if t.inputs]
    return [node for node in graph.nodes if id(node) in live]


def _is_sampled(node: gs.Node) -> bool:
    """Whether a reader of a map only hands it on to what samples it at points."""
    if node.op == "GridSample":
        return True
    return node.op in RESHAPING | {"Gather"} and all(_is_sampled(n) for n in node.outputs[0].outputs)


def _everywhere(graph: Graph, old: gs.Tensor, new: gs.Tensor) -> gs.Tensor:
    """Let all other consumers of `old` read `new`."""
    graph.redirect([node for node in list(old.outputs) if node is not new.inputs[0]], old, new)
    return new


class _Masks:
    """Which cells of a map lie on the image (padded to a multiple of 32), per stride."""

    def __init__(self, graph: Graph, ctx: Context) -> None:
        self.graph, self.batch = graph, ctx.batch
        self.canvas = ctx.spec().image.height, ctx.spec().image.width
        sizes = next(t for t in graph.gs.inputs if t.name == IMAGE_SIZES)
        b = self.builder = Builder(graph, "padding", [IMAGE_SIZES])
        # Only a feature pyramid asks detectron2 to pad images; C4 and DC5 take them as they are.
        pyramid = len(ctx.spec().feature_tensors()) != 1
        unit = b.floats("divisibility", float(ctx.size_divisibility if pyramid else 1))
        units = (b.of(sizes) / unit).named("units").ceil().named("whole_units")
        self.padded = (units * unit).named("padded_sizes")
        self._inside: dict[tuple[int, int], Value] = {}

    def fill(self, tensor: gs.Tensor, outside: float) -> gs.Tensor:
        b = Builder(self.graph, "padding", [tensor.name])
        rows, columns = (b.of(self.inside(tensor, axis)) for axis in (2, 3))
        return where((rows & columns).named("inside"), tensor, constant("outside", outside)).named("masked").handle

    def repeat_edge(self, tensor: gs.Tensor) -> gs.Tensor:
        """The first row and column outside take the values of the last ones inside."""
        b = Builder(self.graph, "padding", [tensor.name])
        for axis in (2, 3):
            size = int(tensor.shape[axis])
            start, end, axes = b.ints("start", [0]), b.ints("end", [size - 1]), b.ints("axis", [axis])
            one = b.ints("one", [1])
            first = b.op("Slice", [tensor, start, one, axes], "first")
            rest = b.op("Slice", [tensor, start, end, axes], "rest")
            shifted = b.op("Concat", [first, rest], "shifted", axis=axis)
            tensor = where(b.of(self.inside(tensor, axis)), tensor, shifted).named("edge").handle
        return tensor

    def inside(self, tensor: gs.Tensor, axis: int) -> Value:
        """bool [N, 1, H, 1] or [N, 1, 1, W]: rows or columns that lie on the padded image."""
        size = int(tensor.shape[axis])
        stride = 2 ** round(np.log2(self.canvas[axis - 2] / size))
        if -(-self.canvas[axis - 2] // stride) != size:
            raise Refusal(
                f"a map of {size} cells is no power-of-two part of the canvas {self.canvas[axis - 2]}", tensor.name
            )
        key = axis, stride
        if key not in self._inside:
            b, n = self.builder, self.batch
            column = self.padded.take(constant("column", [axis - 2]), axis=1).named("size")
            cells = (column / constant("stride", float(stride))).named("cells").ceil().named("whole_cells")
            bound = cells.reshape(n, 1, 1, 1).named("bound")
            ramp = b.floats("ramp", np.arange(size, dtype=np.float32).reshape(_with([1, 1, 1, 1], axis, size)))
            self._inside[key] = (b.of(ramp) < bound).named("on_image")
        return self._inside[key]


def _with(shape: list[int], axis: int, size: int) -> list[int]:
    return [size if i == axis else int(d) for i, d in enumerate(shape)]
