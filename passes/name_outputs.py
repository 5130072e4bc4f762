"""Names and orders the outputs as NVIDIA's sample does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_graphsurgeon as gs

from onnxgraft.detector.outputs import TENSORS, Role
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.emit.boxes import set_outputs
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTIONS, NAMED_OUTPUTS, Fact


@dataclass(frozen=True, kw_only=True)
class NameOutputs(Pass):
    """Name the outputs num_detections, detection_boxes, detection_scores, detection_classes, detection_masks.

    Keypoint heatmaps become detection_keypoint_heatmaps, a semantic head's logits semantic_logits. Always legal after
    box-nms; a network that detects nothing has only semantic_logits. Boxes are x1, y1, x2, y2: by default divided by the
    canvas size, as clients of NVIDIA's sample expect; boxes=pixels leaves them in pixels of the canvas.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (DETECTIONS,)
    provides: ClassVar[tuple[Fact | str, ...]] = (NAMED_OUTPUTS,)
    modifies: ClassVar[tuple[str, ...]] = ("outputs",)

    boxes: Literal["normalized", "pixels"] = "normalized"

    def run(self, graph: Graph, ctx: Context) -> None:
        outputs: list[gs.Tensor] = []
        semantic = ctx.detector.semantic if ctx.detector is not None else None
        if semantic is not None:
            ctx.values.results.setdefault(Role.SEMANTIC, semantic.logits_tensor)
            ctx.replaced[semantic.logits_tensor] = TENSORS[Role.SEMANTIC]
        for role, name in TENSORS.items():
            if role not in ctx.values.results:
                continue
            tensor = graph.tensor(ctx.values.results[role])
            if role is Role.BOXES and self.boxes == "normalized":
                b = Builder(graph, "outputs", [tensor.inputs[0].name])
                height, width = _canvas(graph, ctx)
                canvas = b.floats("canvas", [width, height, width, height])
                tensor = b.op("Div", [tensor, canvas], "normalized_boxes", shape=list(tensor.shape))
            ctx.replaced = {old: name if new == tensor.name else new for old, new in ctx.replaced.items()}
            tensor.name = name
            ctx.values.results[role] = name
            outputs.append(tensor)
        set_outputs(graph, ctx, outputs)
        shapes = {t.name: tuple(t.shape) for t in outputs}
        ctx.io = replace(ctx.io, boxes=self.boxes, outputs=shapes)


def _canvas(graph: Graph, ctx: Context) -> tuple[int, int]:
    """Height and width of the input; detectors of other analyses are taken to read NCHW."""
    if ctx.detector is not None:
        return ctx.detector.image.height, ctx.detector.image.width
    shape = graph.gs.inputs[0].shape
    if len(shape) != 4 or not all(isinstance(d, int) for d in shape):
        raise Refusal(f"boxes cannot be normalized by the input's shape {shape}; take name-outputs{{boxes=pixels}}")
    return shape[2], shape[3]
