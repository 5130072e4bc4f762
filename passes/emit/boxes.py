"""Box arithmetic that several passes emit, in the order of operations of detectron2, so that no bit differs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.detector.spec import BoxCoder
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.context import Context

Shape = Sequence[int]


def set_outputs(graph: Graph, ctx: Context, outputs: Sequence[gs.Tensor]) -> None:
    """Make these the graph's outputs, before those that are unknown and stay as they are."""
    kept = [t for t in graph.gs.outputs if t.name in ctx.unknown_outputs]
    graph.gs.outputs[:] = [*outputs, *kept]


def columns(builder: Builder, boxes: gs.Tensor, start: int, end: int, hint: str, shape: Shape) -> gs.Variable:
    """boxes[..., start:end], with the shape of the result."""
    bounds = [builder.ints(name, [n]) for name, n in (("start", start), ("end", end), ("axis", len(shape) - 1))]
    return builder.op("Slice", [boxes, *bounds], hint, shape=shape)


def decode(
    builder: Builder, deltas: gs.Tensor, boxes: gs.Tensor, coder: BoxCoder, shape: Shape, box_shape: Shape
) -> gs.Variable:
    """Box2BoxTransform.apply_deltas (detectron2 modeling/box_regression.py).

    Args:
        deltas: [..., 4] of `shape`: dx, dy, dw, dh.
        boxes: [..., 4] of `box_shape`, broadcast against `shape`: x1, y1, x2, y2.
        coder: weights and the clamp of dw, dh.

    Returns:
        Boxes x1, y1, x2, y2 of `shape`, not clipped.
    """
    half, pair = [*shape[:-1], 2], [*box_shape[:-1], 2]
    low = columns(builder, boxes, 0, 2, "x1y1", pair)
    high = columns(builder, boxes, 2, 4, "x2y2", pair)
    size = builder.op("Sub", [high, low], "size", shape=pair)
    offset = builder.op("Mul", [size, builder.floats("half", 0.5)], "half_size", shape=pair)
    centre = builder.op("Add", [low, offset], "centre", shape=pair)
    shift = weighted(builder, columns(builder, deltas, 0, 2, "dxdy", half), coder.weights[:2], half)
    growth = weighted(builder, columns(builder, deltas, 2, 4, "dwdh", half), coder.weights[2:], half)
    growth = builder.op("Min", [growth, builder.floats("scale_clamp", coder.scale_clamp)], "clamped", shape=half)
    moved = builder.op("Mul", [shift, size], "shift", shape=half)
    new_centre = builder.op("Add", [moved, centre], "new_centre", shape=half)
    grown = builder.op("Exp", [growth], "growth", shape=half)
    new_size = builder.op("Mul", [grown, size], "new_size", shape=half)
    reach = builder.op("Mul", [new_size, builder.floats("half", 0.5)], "reach", shape=half)
    corner = builder.op("Sub", [new_centre, reach], "new_x1y1", shape=half)
    opposite = builder.op("Add", [new_centre, reach], "new_x2y2", shape=half)
    return builder.op("Concat", [corner, opposite], "decoded", shape=shape, axis=-1)


def weighted(builder: Builder, deltas: gs.Tensor, weights: Sequence[float], shape: Shape) -> gs.Tensor:
    if all(w == 1.0 for w in weights):
        return deltas
    return builder.op("Div", [deltas, builder.floats("weights", weights)], "weighted", shape=shape)


def bounds(builder: Builder, ctx: Context, rank: int) -> gs.Tensor:
    """Where boxes are clipped: [W, H, W, H] of the canvas, or of each image when their sizes are an input."""
    image = ctx.spec().image
    if not ctx.io.get("image_sizes"):
        return builder.floats("canvas", [image.width, image.height, image.width, image.height])
    sizes = next(t for t in builder.graph.gs.inputs if t.name == "image_sizes")
    whwh = builder.op("Gather", [sizes, builder.ints("whwh", [1, 0, 1, 0])], "sizes", shape=[ctx.batch, 4], axis=1)
    shape = [ctx.batch, *([1] * (rank - 2)), 4]
    return builder.op("Reshape", [whwh, builder.ints("shape", shape)], "bounds", shape=shape)


def clip(builder: Builder, boxes: gs.Tensor, limit: gs.Tensor, shape: Shape) -> gs.Variable:
    """Boxes.clip: x into [0, width], y into [0, height]."""
    low = builder.op("Max", [boxes, builder.floats("zero", 0.0)], "not_negative", shape=shape)
    return builder.op("Min", [low, limit], "clipped", shape=shape)


def chosen_anew(score: float | None, iou: float | None, detections: int | None) -> str:
    """Why an NMS pass changes detections: which of the export's numbers an option replaces; empty for none."""
    given = {"score threshold": score, "IoU threshold": iou, "number of detections": detections}
    names = [what for what, value in given.items() if value is not None]
    return f"you chose another {' and '.join(names)}" if names else ""


def just_above(number: float) -> float:
    """The next float32: EfficientNMS_TRT compares with >=, detectron2 with >."""
    return float(np.nextafter(np.float32(number), np.float32(np.inf)))
