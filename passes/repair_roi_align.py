"""Gives RoiAlign back the half pixel that exports below opset 16 could not express."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import OPSET, Fact

_FIRST_OPSET_WITH_ALIGNMENT = 16
_ALIGNMENT = {"ROIAlignV2": "half_pixel", "ROIAlign": "output_half_pixel"}


@dataclass(frozen=True, kw_only=True)
class RepairRoiAlign(Pass):
    """Restore the half-pixel alignment that exports below opset 16 lose.

    RoiAlign below opset 16 has no coordinate_transformation_mode: the exporter drops detectron2's aligned=True without a
    word, and every box moves by half a cell. Legal when (1) the graph was exported below opset 16, or raised to it by
    ONNX's version converter, which writes down what the old one could not say; newer graphs say what they mean and are
    left alone. pooler-type ROIAlignV2 is aligned, ROIAlign is not.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (OPSET,)

    changes_answers = "restores what the export lost, so its answers are new"

    pooler_type: Literal["ROIAlignV2", "ROIAlign"] = "ROIAlignV2"  # MODEL.*.POOLER_TYPE of the config

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        says = graph.source_opset >= _FIRST_OPSET_WITH_ALIGNMENT and not graph.converted
        return f"the export's opset {graph.source_opset} says how RoiAlign is aligned" if says else None

    def run(self, graph: Graph, ctx: Context) -> None:
        wanted = _ALIGNMENT[self.pooler_type]
        for node in graph.nodes:
            if node.op == "RoiAlign" and node.attrs.get("coordinate_transformation_mode", "half_pixel") != wanted:
                node.attrs["coordinate_transformation_mode"] = wanted
                ctx.count("RoiAlign nodes repaired")
        if ctx.statistics:
            lost = "was raised by ONNX's version converter" if graph.converted else "cannot say it"
            ctx.notes.append(
                f"repaired {ctx.statistics['RoiAlign nodes repaired']} RoiAlign nodes to {wanted}: the export's opset "
                f"{graph.source_opset} {lost} (keep it with --pooler-type ROIAlign)"
            )
