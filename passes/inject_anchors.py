"""Replaces the anchor generator by one constant per level, computed offline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxgraft.detector import DenseLevel, RPNLevel
from onnxgraft.errors import Refusal
from onnxgraft.folding import evaluate
from onnxgraft.graph import Builder, Graph
from onnxgraft.manager import Context, Pass


@dataclass(frozen=True, kw_only=True)
class InjectAnchors(Pass):
    """Replace the anchor generator by one constant per level.

    The graph's own generator is folded at the fixed size and compared with the closed form. Legal when (1) the grid of
    every level is static, (2) both agree within `tolerance` pixels. A graph whose anchors were folded before keeps its
    constants; the closed form is used then. A detector without anchors is left alone.
    """

    requires: ClassVar[tuple[str, ...]] = ("static-input", "detector")
    provides: ClassVar[tuple[str, ...]] = ("anchors",)

    tolerance: float = 1e-4

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


def grid_anchors(level: RPNLevel | DenseLevel) -> np.ndarray:
    """DefaultAnchorGenerator's anchors (detectron2 modeling/anchor_generator.py): float32 [H * W * A, 4], pixels."""
    start = level.anchor_offset * level.stride
    x = np.arange(level.width, dtype=np.float32) * np.float32(level.stride) + np.float32(start)
    y = np.arange(level.height, dtype=np.float32) * np.float32(level.stride) + np.float32(start)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    shifts = np.stack([grid_x, grid_y, grid_x, grid_y], -1).reshape(-1, 1, 4)
    return (shifts + np.array(level.cell_anchors, np.float32)).reshape(-1, 4)
