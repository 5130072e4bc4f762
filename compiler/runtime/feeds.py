"""What a graph is fed at each stage of a compilation, and how its detections are read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.detector.outputs import Role
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.context import Context
from onnxgraft.runtime.detections import Detections, from_raw_export
from onnxgraft.runtime.proposals import grid


def fits(graph: Graph, image: NDArray[np.uint8]) -> bool:
    """Whether the graph's input has the image's size."""
    shape = list(graph.gs.inputs[0].shape or []) if graph.gs.inputs else []
    return image.shape[0] in shape and image.shape[1] in shape


def stage_feeds(graph: Graph, ctx: Context, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """The inputs of a graph at any stage, for one canvas-sized BGR image (repeated over the batch)."""
    tensor = graph.gs.inputs[0]
    shape = list(tensor.shape)
    described = ctx.io.get("input", {})
    order = described.get("order") or (ctx.detector.image.order if ctx.detector else "BGR")
    picture = image[..., ::-1] if order == "RGB" else image
    if described.get("layout", "NCHW") == "NCHW":
        picture = picture.transpose(2, 0, 1)
    picture = np.ascontiguousarray(picture, dtype=described.get("dtype", "float32"))
    feeds = {tensor.name: picture if len(shape) == 3 else np.stack([picture] * shape[0])}
    if ctx.io.get("image_sizes"):
        feeds["image_sizes"] = np.array([image.shape[:2]] * shape[0], np.float32)
    for other in graph.gs.inputs[1:]:
        if other.name not in feeds and other.shape and other.shape[-1] == 4:
            boxes = grid(None, (image.shape[0], image.shape[1]), other.shape[-2])
            feeds[other.name] = np.broadcast_to(boxes, other.shape)
    return feeds


def stage_detections(outputs: dict[str, NDArray[Any]], ctx: Context) -> Detections:
    """The first image's detections of a graph at any stage, in pixels of the canvas."""
    results = ctx.values.results
    if Role.NUM_DETECTIONS not in results:
        return from_raw_export(outputs, ctx.detector.outputs if ctx.detector is not None else None)
    count = int(outputs[results[Role.NUM_DETECTIONS]][0, 0])
    boxes = outputs[results[Role.BOXES]][0, :count]
    if ctx.io.get("boxes") == "normalized":
        image = ctx.spec().image
        boxes = boxes * np.array([image.width, image.height] * 2, np.float32)
    maps = {role: outputs.get(results[role]) for role in (Role.MASKS, Role.HEATMAPS, Role.SEMANTIC) if role in results}
    masks, heatmaps = (
        None if found is None else found.reshape(ctx.batch, -1, *found.shape[-rank:])[0, :count]
        for found, rank in ((maps.get(Role.MASKS), 2), (maps.get(Role.HEATMAPS), 3))
    )
    semantic = maps.get(Role.SEMANTIC)
    scores = outputs[results[Role.SCORES]][0, :count]
    classes = outputs[results[Role.CLASSES]][0, :count] if Role.CLASSES in results else np.zeros(count)
    logits = None if semantic is None else semantic[0]
    return Detections.of(boxes, scores, classes.astype(np.int64), masks, heatmaps, logits)
