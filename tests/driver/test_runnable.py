"""runnable.onnx: what ONNX Runtime runs of a build goes on from where the two forms part."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnxgraft.driver.runnable import RUNNABLE, Shared, write_runnable
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context, Ranges
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager


class Same:
    """Ranges of any graph."""

    def ranges(self, graph: Graph, ctx: Context, groups: list[list[str]]) -> Ranges:
        return Ranges({name: float(np.float32(1.7)) for group in groups for name in group})


def test_going_on_gives_the_bytes_of_beginning_anew(golden_model: Path, tmp_path: Path) -> None:
    pipeline = default_pipeline(CompileOptions(size=(128, 160), precision="int8"), "tensorrt-rtx")
    shared, ctx = Shared(pipeline.passes), Context(range_source=Same(), held=True)
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
    shared, graph = Shared(steps), Graph.load(conv_net)
    for step in steps:
        shared.before(step, graph, Context())
    assert (shared.common, shared.kept) == (0, None)


class Without(Instrument):
    """Leaves one pass out."""

    def __init__(self, name: str) -> None:
        self._name = name

    def should_run(self, step: Pass, graph: Graph, ctx: Context) -> bool:
        return step.name() != self._name


def test_what_is_shared_does_not_run_again_where_an_instrument_left_a_pass_out(golden_model: Path, tmp_path: Path) -> None:
    """The pass that is left out has nothing to do here, so that the bytes are those of all passes."""
    pipeline = default_pipeline(CompileOptions(size=(128, 160), precision="int8"), "tensorrt-rtx")
    shared, ctx = Shared(pipeline.passes), Context(range_source=Same(), held=True)
    PassManager(pipeline.passes, [Without("deform-conv"), shared], fingerprints=False).run(Graph.load(golden_model), ctx)
    written = []
    for kept in (shared, None):
        write_runnable(golden_model, pipeline, ctx, tmp_path, shared=kept)
        written.append((tmp_path / RUNNABLE).read_bytes())
    assert shared.kept is not None
    assert written[0] == written[1]
