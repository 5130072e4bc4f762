"""Box arithmetic that several passes emit, in the order of operations of detectron2, so that no bit differs.

Boxes are float32 [..., 4]: x1, y1, x2, y2 in pixels of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import BoxCoder
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value import Value, concat, constant
from onnxgraft.manifest import IMAGE_SIZES
from onnxgraft.pipeline.context import Context

HALF = constant("half", 0.5)


def set_outputs(graph: Graph, ctx: Context, outputs: Sequence[gs.Tensor]) -> None:
    """Make these the graph's outputs, before those that are unknown and stay as they are."""
    kept = [t for t in graph.gs.outputs if t.name in ctx.unknown_outputs]
    graph.gs.outputs[:] = [*outputs, *kept]


def corners(boxes: Value, low: str = "low", high: str = "high") -> tuple[Value, Value]:
    """(x1, y1) and (x2, y2) of boxes [..., 4], each [..., 2], under these names."""
    return boxes[..., 0:2].named(low), boxes[..., 2:4].named(high)


def shortest_side(boxes: Value, keepdims: bool = False) -> Value:
    """The smaller of width and height of boxes [..., 4]: [...], or [..., 1] with `keepdims`; pixels."""
    low, high = corners(boxes)
    extent = (high - low).named("extent")
    return extent.amin(len(boxes.shape) - 1, keepdims=keepdims).named("smallest")


def decode(deltas: Value, boxes: Value, coder: BoxCoder) -> Value:
    """Box2BoxTransform.apply_deltas (detectron2 modeling/box_regression.py).

    Args:
        deltas: float32 [..., 4]: dx, dy, dw, dh.
        boxes: [..., 4], broadcast against the deltas.
        coder: weights and the clamp of dw, dh.

    Returns:
        Boxes [..., 4], not clipped.
    """
    low, high = corners(boxes, "x1y1", "x2y2")
    size = (high - low).named("size")
    centre = (low + (size * HALF).named("half_size")).named("centre")
    shift = _weighted(deltas[..., 0:2].named("dxdy"), coder.weights[:2])
    growth = _weighted(deltas[..., 2:4].named("dwdh"), coder.weights[2:])
    growth = growth.min(constant("scale_clamp", coder.scale_clamp)).named("clamped")
    new_centre = ((shift * size).named("shift") + centre).named("new_centre")
    new_size = (growth.exp().named("growth") * size).named("new_size")
    reach = (new_size * HALF).named("reach")
    return concat((new_centre - reach).named("new_x1y1"), (new_centre + reach).named("new_x2y2"), axis=-1).named("decoded")


def decode_linear(deltas: Value, anchors: Value) -> Value:
    """Box2BoxTransformLinear.apply_deltas with normalize_by_size (detectron2 modeling/box_regression.py).

    Args:
        deltas: float32 [..., 4], distances from the anchor's centre to left, top, right, bottom, in anchor sizes.
        anchors: [..., 4].

    Returns:
        Boxes [..., 4], not clipped.
    """
    low, high = corners(anchors, "x1y1", "x2y2")
    centre = ((low + high).named("corner_sum") * HALF).named("centre")
    size = (high - low).named("size")
    distances = deltas.relu().named("distances")
    before = (distances[..., 0:2].named("left_top") * size).named("before")
    behind = (distances[..., 2:4].named("right_bottom") * size).named("behind")
    return concat((centre - before).named("new_x1y1"), (centre + behind).named("new_x2y2"), axis=-1).named("decoded")


def _weighted(deltas: Value, weights: Sequence[float]) -> Value:
    if all(w == 1.0 for w in weights):
        return deltas
    return (deltas / constant("weights", [float(w) for w in weights])).named("weighted")


def clip(builder: Builder, ctx: Context, boxes: Value) -> Value:
    """Boxes.clip: x into [0, width], y into [0, height] of the canvas, or of each image when their sizes are an input."""
    image = ctx.spec().image
    limit: gs.Tensor | Value
    if ctx.io.image_sizes:
        sizes = next(t for t in builder.graph.gs.inputs if t.name == IMAGE_SIZES)
        whwh = builder.of(sizes).take(constant("whwh", [1, 0, 1, 0]), axis=1).named("sizes")
        limit = whwh.reshape(ctx.batch, *[1] * (len(boxes.shape) - 2), 4).named("bounds")
    else:
        limit = builder.floats("canvas", [image.width, image.height, image.width, image.height])
    return boxes.max(constant("zero", 0.0)).named("not_negative").min(limit).named("clipped")


def just_above(number: float) -> float:
    """The next float32: EfficientNMS_TRT compares with >=, detectron2 with >."""
    return float(np.nextafter(np.float32(number), np.float32(np.inf)))
