"""Gives RoiAlign back the half pixel that exports below opset 16 could not express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_graphsurgeon as gs

from onnxgraft.analysis.rcnn import says_alignment
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import producer, scalar
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import OPSET, Fact

_CLOSE = 1e-4  # cells
_ALIGNMENT = {"ROIAlignV2": "half_pixel", "ROIAlign": "output_half_pixel"}


@dataclass(frozen=True, kw_only=True)
class RepairRoiAlign(Pass):
    """Restore the half-pixel alignment that exports below opset 16 lose.

    RoiAlign below opset 16 has no coordinate_transformation_mode: the exporter drops detectron2's aligned=True without a
    word, and every box moves by half a cell; old exporters move the boxes instead, which becomes half_pixel. Legal when
    (1) the graph was exported below opset 16, or raised to it by ONNX's version converter, which writes down what the old
    one could not say; newer graphs say what they mean and are left alone. pooler-type ROIAlignV2 is aligned, ROIAlign is
    not.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (OPSET,)

    changes_answers = "restores what the export lost, so its answers are new"

    pooler_type: Literal["ROIAlignV2", "ROIAlign"] = "ROIAlignV2"  # MODEL.*.POOLER_TYPE of the config

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return f"the export's opset {graph.source_opset} says how RoiAlign is aligned" if says_alignment(graph) else None

    def run(self, graph: Graph, ctx: Context) -> None:
        wanted = _ALIGNMENT[self.pooler_type]
        for node in graph.nodes:
            if node.op == "RoiAlign" and _unshift(node):
                node.attrs["coordinate_transformation_mode"] = _ALIGNMENT["ROIAlignV2"]
                ctx.count("RoiAlign nodes aligned by a shift of their boxes")
            elif node.op == "RoiAlign" and node.attrs.get("coordinate_transformation_mode", "half_pixel") != wanted:
                node.attrs["coordinate_transformation_mode"] = wanted
                ctx.count("RoiAlign nodes repaired")
        if ctx.statistics.get("RoiAlign nodes aligned by a shift of their boxes"):
            ctx.notes.append("the export moves boxes by half a cell in front of RoiAlign: made half_pixel, which means that")
        if ctx.statistics.get("RoiAlign nodes repaired"):
            lost = "was raised by ONNX's version converter" if graph.converted else "cannot say it"
            ctx.notes.append(
                f"repaired {ctx.statistics['RoiAlign nodes repaired']} RoiAlign nodes to {wanted}: the export's opset "
                f"{graph.source_opset} {lost} (keep it with --pooler-type ROIAlign)"
            )


def _unshift(node: gs.Node) -> bool:
    """Take away half a cell that an old exporter subtracts from the boxes in front of a RoiAlign. Returns whether it did."""
    shift = producer(node.inputs[1])
    taken = scalar(shift.inputs[1]) if shift is not None and shift.op == "Sub" else None
    if shift is None or taken is None or abs(taken * node.attrs.get("spatial_scale", 1.0) - 0.5) > _CLOSE:
        return False
    node.inputs[1] = shift.inputs[0]
    return True
