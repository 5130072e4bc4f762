"""runnable.onnx: what ONNX Runtime runs of a build goes on from where the two forms part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxgraft.driver.runnable import RUNNABLE, Shared, write_runnable
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context, Ranges
from onnxgraft.pipeline.manager import PassManager


class Same:
    """Ranges of any graph."""

    def ranges(self, graph: Graph, ctx: Context, groups: list[list[str]]) -> Ranges:
        return Ranges({name: float(np.float32(1.7)) for group in groups for name in group})


@pytest.mark.parametrize(
    ("target", "precision", "common"),
    [("tensorrt-rtx", "fp32", True), ("tensorrt-rtx", "int8", True), ("tensorrt", "fp16", True), ("tensorrt", "bf16", False)],
)  # bf16 needs another opset from the first pass on
def test_going_on_gives_the_bytes_of_beginning_anew(
    golden_model: Path, tmp_path: Path, target: str, precision: str, common: bool
) -> None:
    pipeline = default_pipeline(CompileOptions(size=(128, 160), precision=precision), target)
    shared, ctx = Shared(), Context(range_source=Same())
    PassManager(pipeline.passes, [shared], fingerprints=False).run(Graph.load(golden_model), ctx)
    assert (shared.kept is not None) == common == (10 < shared.common < len(pipeline.passes))
    written = []
    for kept in (shared, None):
        write_runnable(golden_model, pipeline, ctx, tmp_path, shared=kept)
        written.append((tmp_path / RUNNABLE).read_bytes())
    assert written[0] == written[1]
