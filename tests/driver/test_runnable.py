"""runnable.onnx: what ONNX Runtime runs of a build goes on from where the two forms part."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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


def test_going_on_gives_the_bytes_of_beginning_anew(golden_model: Path, tmp_path: Path) -> None:
    pipeline = default_pipeline(CompileOptions(size=(128, 160), precision="int8"), "tensorrt-rtx")
    shared, ctx = Shared(), Context(range_source=Same(), held=True)
    PassManager(pipeline.passes, [shared], fingerprints=False).run(Graph.load(golden_model), ctx)
    assert shared.kept is not None
    assert 10 < shared.common < len(pipeline.passes)
    written = []
    for kept in (shared, None):
        write_runnable(golden_model, pipeline, ctx, tmp_path, shared=kept)
        written.append((tmp_path / RUNNABLE).read_bytes())
    assert written[0] == written[1]


def test_nothing_is_kept_where_the_first_pass_differs(conv_net: Path) -> None:
    """bf16 needs another opset than ONNX Runtime has."""
    steps = default_pipeline(CompileOptions(size=(64, 64), precision="bf16"), "tensorrt").passes
    assert steps[0].portable() != steps[0]
    assert steps[1].portable() == steps[1]
    shared, graph = Shared(), Graph.load(conv_net)
    for step in steps:
        shared.before(step, graph, Context())
    assert (shared.common, shared.kept) == (0, None)
