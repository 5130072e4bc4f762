"""The form of a compiled graph that ONNX Runtime runs on the CPU, where it differs from what the builder gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.snapshot import Snapshot
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import BF16, FP16, LOWERED
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.syntax import Pipeline
from onnxgraft.targets.traits import TargetTraits

MODEL = "model.onnx"
RUNNABLE = "runnable.onnx"


def runs_as_built(ctx: Context, traits: TargetTraits) -> bool:
    """Whether ONNX Runtime computes the graph that a target got, with the target's numbers.

    A graph that names TensorRT's plugins does not run there. One that is typed fp16 runs, but ONNX Runtime computes it in
    fp32 without rounding; one that is typed bf16 does not run at all.
    """
    if LOWERED.name not in ctx.facts or traits.plugins == "functions":
        return True
    typed = traits.half == "typed" and not ctx.facts.isdisjoint({FP16.name, BF16.name})
    return not typed and traits.plugins != "default-domain"


def needs_another(ctx: Context, traits: TargetTraits) -> bool:
    """Whether ONNX Runtime cannot run the graph that a target got, or is slower with it.

    One whose plugins became standard operators gives the same answers and takes longer than their functions, which have
    ONNX Runtime's own suppression and RoIAlign.
    """
    lowered = LOWERED.name in ctx.facts and traits.plugins != "functions" and bool(ctx.lowering)
    return lowered or not runs_as_built(ctx, traits)


class Shared(Instrument):
    """Keeps the graph before the first pass that has another form for ONNX Runtime: up to there both builds are one.

    Attributes:
        common: how many passes they share; 0, too, where no pass has another form.
        kept: what they go on from; None where there is nothing to go on from.
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        parting = [index for index, step in enumerate(passes) if step.portable() != step]
        self.common = parting[0] if parting else 0
        self.kept: tuple[Snapshot, Context] | None = None
        self._parting = passes[self.common] if self.common else None

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        if step is self._parting:
            self.kept = Snapshot.of(graph), ctx.copy()


def write_runnable(
    source: Path, pipeline: Pipeline, first: Context, folder: Path, bounds: Bounds | None = None, shared: Shared | None = None
) -> None:
    """Write runnable.onnx: the pipeline once more over `source`, in the form that ONNX Runtime computes alike.

    Args:
        source: the model.
        pipeline: what was run over it.
        first: the context of that run; its ranges serve again, and what it held is not held again.
        folder: where runnable.onnx is written.
        bounds: what the model may ask for.
        shared: kept of that run; only what comes after it is run again.
    """
    steps = [step.portable() for step in pipeline.passes]
    if shared is not None and shared.kept is not None:
        snapshot, ctx = shared.kept
        graph, ctx.range_source, done = snapshot.graph(), first.ranges, shared.common
    else:
        graph, done = Graph.load(source, bounds), 0
        ctx = Context(range_source=first.ranges, channel_order=first.channel_order, held=first.held)
    PassManager(steps, fingerprints=False).run(graph, ctx, done)
    graph.save(folder / RUNNABLE)
