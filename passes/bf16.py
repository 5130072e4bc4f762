"""Types the network as bf16 where the target has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.fp16 import Fp16
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import BF16, Fact

OPSET = 22  # from here on ONNX lets Conv and MaxPool be bf16


@dataclass(frozen=True, kw_only=True)
class Bf16(Fp16):
    """Compute backbone, FPN and heads in bf16, with weights stored as bf16.

    What stays in fp32 is as in the fp16 pass, and ConvTranspose, which TensorRT for RTX does not build in bf16. bf16
    has fp32's range, so nothing overflows, and 8 bits of mantissa, so it rounds eight times coarser than fp16. Legal
    when (1) the graph has opset 22 or later.
    """

    provides: ClassVar[tuple[Fact | str, ...]] = (BF16,)
    storage: ClassVar[np.dtype] = np.dtype(ml_dtypes.bfloat16)
    lacks: ClassVar[frozenset[str]] = frozenset({"ConvTranspose"})
    changes_answers = "rounds to bf16; `onnxgraft eval` measures what that costs"
    limit: ClassVar[float] = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)

    def run(self, graph: Graph, ctx: Context) -> None:
        if graph.gs.opset < OPSET and not self.emulate:
            needed = f"upgrade-opset{{version={OPSET}}}"
            raise Refusal(f"bf16 needs opset {OPSET}, the graph has {graph.gs.opset}: run {needed} first")
        super().run(graph, ctx)
