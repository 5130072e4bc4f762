"""A graph at any stage of a compilation, run in ONNX Runtime on pictures of the canvas size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.atomic import scratch
from onnxgraft.detector.outputs import Role
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import GraphIO, Preprocess
from onnxgraft.pipeline.context import Context
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.feeds import Feeder, as_it_stands
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.runtime.read_outputs import from_outputs, from_raw_export
from onnxgraft.targets import OrtRunner


def fits(graph: Graph, picture: NDArray[np.uint8]) -> bool:
    """Whether the graph's input has the size of a picture, uint8 [H, W, 3]."""
    shape = list(graph.gs.inputs[0].shape or []) if graph.gs.inputs else []
    return picture.shape[0] in shape and picture.shape[1] in shape


def stage_io(graph: Graph, ctx: Context) -> GraphIO:
    """What the graph takes and gives as it stands, named by its passes or not yet."""
    order = Preprocess.of(ctx.detector.image).order if ctx.detector is not None else "BGR"
    return as_it_stands(ctx.io, {t.name: tuple(t.shape or ()) for t in graph.gs.inputs}, order)


def feeder(graph: Graph, ctx: Context, rule: ResizeRule | None = None) -> Feeder:
    """Makes the graph's inputs from pictures; `rule` resizes those of another size, detectron2's default without it."""
    preprocess = Preprocess.of(ctx.detector.image) if ctx.detector is not None else Preprocess()
    return Feeder(stage_io(graph, ctx), preprocess, rule or ResizeRule())


def stage_detections(outputs: Mapping[str, NDArray[Any]], ctx: Context, io: GraphIO | None = None) -> Detections:
    """The first image's detections of a graph at any stage, in pixels of the canvas.

    Args:
        outputs: what the graph gave, by name: boxes [N, D, 4], scores and classes [N, D], ...; an export's without N.
        ctx: knows which output is what.
        io: what the graph takes and gives; ctx.io without it.

    Raises:
        InputError: an output is missing.
    """
    if Role.NUM_DETECTIONS not in ctx.values.results:
        if ctx.detector is None:
            return from_raw_export(outputs)
        kept = [form for form in ctx.detector.output_forms if form.given == form.taken]  # the graph's own
        return from_raw_export(outputs, ctx.detector.outputs, kept)
    return from_outputs(outputs, io or ctx.io, 0, ctx.values.results)


def detect(graph: Graph, ctx: Context, pictures: Sequence[NDArray[np.uint8]]) -> list[Detections]:
    """Save the graph, run it on each picture (uint8 [H, W, 3] BGR, repeated over the batch), and read its detections."""
    feeds = feeder(graph, ctx)
    with scratch() as folder:
        graph.save(folder / "stage.onnx")
        runner = OrtRunner(folder / "stage.onnx")
        return [stage_detections(runner(feeds([picture])), ctx, feeds.io) for picture in pictures]
