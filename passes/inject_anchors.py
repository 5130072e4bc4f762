"""Replaces the anchor generator by one constant per level, computed offline."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxgraft.detector.geometry import grid_anchors
from onnxgraft.detector.spec import DenseLevel, RPNLevel
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import ANCHORS, DETECTOR, STATIC_INPUT, Fact

_STEPS = 4  # of float32, in which the centre, half the side and their sum are rounded


@dataclass(frozen=True, kw_only=True)
class InjectAnchors(Pass):
    """Replace the anchor generator by one constant per level.

    The graph's own generator is folded at the fixed size and compared with the closed form. Legal when (1) the grid of
    every level is static, (2) both agree within `tolerance` pixels, of steps that are fractions of a pixel within what
    float32 rounds. Anchors that are joined of all levels are one constant. A graph whose anchors were folded before keeps
    its constants; the closed form is used then. A detector without anchors is left alone.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (STATIC_INPUT, DETECTOR)
    provides: ClassVar[tuple[Fact | str, ...]] = (ANCHORS,)

    tolerance: float = 1e-4

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return None if ctx.spec().anchor_levels() else "the detector has no anchors"

    def run(self, graph: Graph, ctx: Context) -> None:
        for name, group in itertools.groupby(ctx.spec().anchor_levels(), key=lambda level: level.anchors_tensor):
            levels = list(group)
            expected = [grid_anchors(level) for level in levels]
            if name is None:
                ctx.anchors += expected
                continue
            tensor = graph.tensor(name)
            anchors = evaluate(graph, [tensor])[0]
            flat = anchors.reshape(-1, 4)
            fitting = len(flat) == sum(map(len, expected))
            error = float(np.abs(flat - np.concatenate(expected)).max()) if fitting else float("inf")
            if not error <= max(self.tolerance, _rounding(levels, flat)):
                raise Refusal(f"anchors of stride {levels[0].stride} differ from the closed form by {error:.3g} pixels "
                              f"(tolerance {self.tolerance:g})", tensor.inputs[0].name if tensor.inputs else None)  # fmt: skip
            builder = Builder(graph, f"anchors/stride{levels[0].stride}", [n.name for n in tensor.inputs])
            graph.replace(tensor, builder.const("constant", anchors.astype(np.float32)))
            own = np.ascontiguousarray(flat, dtype=np.float32)
            ctx.anchors += np.split(own, np.cumsum([len(e) for e in expected])[:-1])
            ctx.count("anchors", len(flat))


def _rounding(levels: Sequence[RPNLevel | DenseLevel], anchors: np.ndarray) -> float:
    """Pixels by which a step that is no whole number lets anchors differ: it is measured on anchors that are rounded."""
    if not any(isinstance(level, DenseLevel) and level.step for level in levels):
        return 0.0
    return _STEPS * float(np.spacing(np.abs(anchors).max().astype(np.float32)))
