"""Fixes the input to NCHW of one size, recognises the detector at that size, and lets the trunk run a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_graphsurgeon as gs

from onnxgraft.analysis import analyse_and_account, read
from onnxgraft.analysis.canvas import added_by, image_paddings, take_resize_out
from onnxgraft.analysis.output_forms import hold_forms, undo_forms
from onnxgraft.analysis.outputs import sort_outputs
from onnxgraft.detector.output_forms import forms_note
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import InputError, Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import first_misfit, forget_shapes, infer_shapes
from onnxgraft.ir.traverse import ancestors, descendants, producer, scalar, value
from onnxgraft.options import Count
from onnxgraft.passes.emit.batch import first_image_for_the_tail, follow_batch, forget_stale_shapes, refuse_lost_rows
from onnxgraft.passes.emit.boxes import set_outputs
from onnxgraft.passes.emit.plain_input import add_batch_axis, form_note, make_plain
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTOR, SIMPLIFIED, STATIC_INPUT, Fact

_NOTHING = 1e-3  # levels; a mean and a deviation that change no picture
SIZE_DIVISIBILITY = 32  # the strides of detectron2's backbones divide it, and every canvas is a multiple of it


@dataclass(frozen=True, kw_only=True)
class FixInput(Pass):
    """Fix the input to [batch, 3, height, width] and recognise the detector.

    Legal when (1) the only input is one image (of a Fast R-CNN also proposals [R, 4]); channels last, uint8, a batch of
    one, levels of 0..1 and channels that the export turns around become one form, float32 [3, H, W] of 0..255, (2) height
    and width are multiples of 32, or those of the export, which then pads nothing, (3) a graph whose shapes were folded
    before (by onnxsim) keeps its size, (4) the detector is of a known family, whose boxes in another layout or divided by
    the image's size, classes from 1, and a batch axis in front become the one form that builds have; with
    allow-unknown-outputs, outputs that it does not have stay as they are. Post-processing of semantic logits that an
    export left in the graph is cut off: it belongs to one picture's size. With a batch, the part that is not rewritten yet
    goes on with the first image.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (SIMPLIFIED,)
    provides: ClassVar[tuple[Fact | str, ...]] = (STATIC_INPUT, DETECTOR)
    modifies: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    height: int = 1344
    width: int = 1344
    batch: Count = 1
    proposals: Count = 1000  # rows of a Fast R-CNN's second input
    allow_unknown_outputs: bool = False

    def run(self, graph: Graph, ctx: Context) -> None:
        was = make_plain(graph)
        self._check_size(graph, ctx)
        before = resize_image(graph, self.height, self.width)
        try:
            take_resize_out(graph)
            take_padding_out(graph, before)
            ctx.count("folded", settle(graph)["folded"])
            forms = undo_forms(graph, (self.height, self.width))
            spec = self._analyse(graph, ctx)
            ctx.detector = _with_order(replace(spec, output_forms=hold_forms(forms, spec)), ctx.channel_order)
        except Refusal as refusal:
            if before is not None:
                _refuse_another_size(graph, before)
                raise Refusal(f"{refusal}; the export was {before[0]}x{before[1]}: if it was simplified at that size, "
                              f"build with --size {before[0]}x{before[1]} or from the raw export") from refusal  # fmt: skip
            raise
        if before is not None:
            _refuse_another_size(graph, before)
        image = ctx.detector.image
        ctx.notes += [*form_note(was, image), *forms_note(ctx.detector.output_forms)]
        if max(map(abs, image.mean)) < _NOTHING and max(abs(std - 1) for std in image.std) < _NOTHING:
            ctx.notes.append("the graph normalises nothing: it takes levels as they are, and a model that was trained on "
                             "normalised pictures needs them normalised before")  # fmt: skip
        ctx.batch = self.batch
        if ctx.detector.proposals_input is not None:
            graph.tensor(ctx.detector.proposals_input).shape = [self.proposals, 4]
            forget_shapes(graph)
            infer_shapes(graph)
        _cut_postprocessing(graph, ctx, ctx.detector)
        _to_nchw(graph, self.batch, ctx)

    def _check_size(self, graph: Graph, ctx: Context) -> None:
        if ctx.only_size is not None and ctx.only_size != (self.height, self.width):
            height, width = ctx.only_size
            take = f"{height}x{width}"
            raise Refusal(f"this trace holds for {take} only: it pads every image to that; take --size {take}")
        unit = math.lcm(SIZE_DIVISIBILITY, ctx.size_divisibility)
        own = any(list(t.shape or ()) == [3, self.height, self.width] for t in graph.gs.inputs)
        for what, size in (("height", self.height), ("width", self.width)):
            if size < 64 or (size % unit and not own):
                near = max(64, round(size / unit) * unit) if unit == SIZE_DIVISIBILITY else -(-size // unit) * unit
                raise InputError(f"fix-input: {what} {size} is not a multiple of {unit}; take {near}")

    def _analyse(self, graph: Graph, ctx: Context) -> DetectorSpec:
        if not self.allow_unknown_outputs:
            return _recognised(graph, ctx)
        unknown = [tensor for tensor, _ in sort_outputs(graph)[1]]
        graph.gs.outputs[:] = [t for t in graph.gs.outputs if not any(t is u for u in unknown)]
        _refuse_second_network(graph)
        spec = _recognised(graph, ctx)
        graph.gs.outputs.extend(unknown)
        ctx.unknown_outputs = [t.name for t in unknown]
        ctx.notes += [f"output {t.name!r} {t.shape} is none that is known: kept as it is" for t in unknown]
        return spec


def _recognised(graph: Graph, ctx: Context) -> DetectorSpec:
    if ctx.held:
        return read(graph)
    spec, account = analyse_and_account(graph)
    ctx.held = account.as_it_stands
    return spec


def _refuse_another_size(graph: Graph, traced: tuple[int, int]) -> None:
    """Hold that every shape that tracing wrote into the network fits the size that it has now.

    Raises:
        Refusal: one does not, as of windows and positions.
    """
    misfit = first_misfit(graph)
    if misfit is not None:
        height, width = traced
        raise Refusal(f"this trace holds for {height}x{width} only: shapes of that size (of maps, windows or positions) were "
                      "traced, or folded by a simplifier, and do not fit here; take "
                      f"--size {height}x{width}, export at the size that you build, or build from the raw export",
                      misfit)  # fmt: skip


def _refuse_second_network(graph: Graph) -> None:
    """Outputs that stay as they are may read features of the detector, but not the image, which is made another."""
    used = {id(node) for output in graph.gs.outputs for node in ancestors(output)}
    for reader in (node for image in graph.gs.inputs for node in image.outputs if id(node) not in used):
        raise Refusal("two networks in one graph: the image is also read for outputs that no detector has; export them apart",
                      reader.name)  # fmt: skip


def _cut_postprocessing(graph: Graph, ctx: Context, spec: DetectorSpec) -> None:
    """Let a network that only segments end at its logits."""
    if spec.semantic is not None and spec.outputs.boxes_tensor is None:
        set_outputs(graph, ctx, [graph.tensor(spec.semantic.logits_tensor)])


def _with_order(spec: DetectorSpec, order: str | None) -> DetectorSpec:
    """Let a sidecar name the channel order; one that the graph's statistics contradict is refused."""
    if order is None:
        return spec
    if spec.image.order_known and spec.image.order != order:
        raise InputError(f"the sidecar says {order}, but the mean {spec.image.mean} is that of {spec.image.order} images")
    return replace(spec, image=replace(spec.image, order=order, order_known=True))


def resize_image(graph: Graph, height: int, width: int) -> tuple[int, int] | None:
    """Set the image's size. Returns the old size when it changed."""
    image = next((t for t in graph.gs.inputs if t.shape is not None and len(t.shape) == 3), None)
    if image is None or len(graph.gs.inputs) > 2:
        return None  # the analysis refuses with the reason
    graph.gs.inputs.sort(key=lambda t: t is not image)  # the image first
    old = image.shape[1:]
    image.shape = [3, height, width]
    if list(old) == [height, width] or not all(isinstance(d, int) for d in old):
        return None
    forget_shapes(graph)
    _reclip(graph, (old[0], old[1]), (height, width))
    return old[0], old[1]


def _reclip(graph: Graph, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Boxes are clipped to the traced image's size, which the exporter wrote down as constants."""
    for node in graph.nodes:
        if node.op != "Clip" or len(node.inputs) < 3 or scalar(node.inputs[1]) != 0.0:
            continue
        bound = scalar(node.inputs[2])
        if bound not in (float(old[0]), float(old[1])):
            continue
        axis = _coordinate(node)
        if axis is None:
            axis = 1 if bound == old[1] else 0
        builder = Builder(graph, "fix_input", [node.name])
        node.inputs[2] = builder.floats("clip", float(new[axis]))


def _coordinate(clip: gs.Node) -> int | None:
    """0 when a Clip works on y, 1 on x, told by the column that is gathered from the boxes."""
    column = producer(clip.inputs[0])
    if column is None or column.op != "Gather":
        return None
    index = value(column.inputs[1])
    return None if index is None or index.size != 1 else 1 - int(index.reshape(-1)[0]) % 2


def take_padding_out(graph: Graph, traced: tuple[int, int] | None) -> None:
    """Let the canvas be the input, which nothing pads any further.

    Args:
        traced: the size of the export, where it is another one now.

    Raises:
        Refusal: the detector would pad an image of this size to a larger canvas.
    """
    image = graph.gs.inputs[0]
    if len(image.shape or ()) != 3:
        return  # the analysis refuses with the reason
    size = image.shape[1], image.shape[2]
    for pad in list(image_paddings(graph)):
        baked = id(pad.inputs[1]) not in descendants(image)
        before = traced if baked and traced is not None else size
        added = added_by(graph, pad)
        canvas = before[0] + added[0], before[1] + added[1]
        ordinary = before is not size and canvas == tuple(-(-side // SIZE_DIVISIBILITY) * SIZE_DIVISIBILITY for side in before)
        if canvas != size and not ordinary and added != (0, 0):
            take = f"{canvas[0]}x{canvas[1]}"
            raise Refusal(f"the detector pads an image of {before[0]}x{before[1]} to {take}; take --size {take}", pad.name)
        graph.replace(pad.outputs[0], pad.inputs[0])
        pad.outputs.clear()
        pad.inputs.clear()


def _to_nchw(graph: Graph, batch: int, ctx: Context) -> None:
    spec = ctx.spec()
    image = graph.gs.inputs[0]
    normalized = graph.tensor(spec.image.normalized_tensor)
    reader = normalized.outputs[0]
    position = next(i for i, t in enumerate(reader.inputs) if t is normalized)
    add_batch_axis(graph, spec.image, batch)
    ctx.values.image = image.name
    ctx.values.normalized = reader.inputs[position].name
    graph.cleanup()
    forget_stale_shapes(graph)
    if batch > 1:
        follow_batch(graph, ctx.spec(), batch)
        first_image_for_the_tail(graph, ctx, batch)
        graph.cleanup()
        infer_shapes(graph)
    refuse_lost_rows(graph, ctx, batch)
