"""Replaces the anchor generator by one constant per level, computed offline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxgraft.detector.geometry import grid_anchors
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import ANCHORS, DETECTOR, STATIC_INPUT, Fact


@dataclass(frozen=True, kw_only=True)
class InjectAnchors(Pass):
    """Replace the anchor generator by one constant per level.

    The graph's own generator is folded at the fixed size and compared with the closed form. Legal when (1) the grid of
    every level is static, (2) both agree within `tolerance` pixels. A graph whose anchors were folded before keeps its
    constants; the closed form is used then. A detector without anchors is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (STATIC_INPUT, DETECTOR)
    provides: ClassVar[tuple[Fact | str, ...]] = (ANCHORS,)

    tolerance: float = 1e-4

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return None if ctx.spec().anchor_levels() else "the detector has no anchors"

    def run(self, graph: Graph, ctx: Context) -> None:
        for level in ctx.spec().anchor_levels():
            expected = grid_anchors(level)
            if level.anchors_tensor is None:
                ctx.anchors.append(expected)
                continue
            tensor = graph.tensor(level.anchors_tensor)
            anchors = evaluate(graph, [tensor])[0]
            flat = anchors.reshape(-1, 4)
            error = float(np.abs(flat - expected).max()) if flat.shape == expected.shape else float("inf")
            if not error <= self.tolerance:
                raise Refusal(f"anchors of stride {level.stride} differ from the closed form by {error:.3g} pixels "
                              f"(tolerance {self.tolerance:g})", tensor.inputs[0].name if tensor.inputs else None)  # fmt: skip
            builder = Builder(graph, f"anchors/stride{level.stride}", [n.name for n in tensor.inputs])
            graph.replace(tensor, builder.const("constant", anchors.astype(np.float32)))
            ctx.anchors.append(np.ascontiguousarray(flat, dtype=np.float32))
            ctx.count("anchors", len(flat))


