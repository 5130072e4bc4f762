"""The graphs that a proof compares, kept while the passes run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from onnxgraft.ir.graph import Graph, Origin
from onnxgraft.ir.serde import Skeleton
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord
from onnxgraft.proof.plan import Sides

RECOGNISED, FINISHED = "detector", "named-outputs"  # facts: the file is folded at its size; every rewrite is done


@dataclasses.dataclass(frozen=True)
class Kept:
    """A graph as a pass left it. Weights stay where they are."""

    after: str
    skeleton: Skeleton
    origins: dict[str, Origin]
    ctx: Context

    def graph(self) -> Graph:
        """A graph of its own."""
        model = type(self.skeleton.model).FromString(self.skeleton.model.SerializeToString())
        graph = Graph.from_skeleton(Skeleton(model, self.skeleton.weights))
        graph.origins = dict(self.origins)
        return graph


def keep(after: str, graph: Graph, ctx: Context) -> Kept:
    copied = copy.copy(ctx)
    copied.sites, copied.replaced = dict(ctx.sites), dict(ctx.replaced)
    copied.io, copied.facts = copy.deepcopy(ctx.io), set(ctx.facts)
    return Kept(after, graph.skeleton(), dict(graph.origins), copied)


class Witness(Instrument):
    """Keeps the file's graph as it was recognised, and the compiled one before it is typed or lowered.

    every: keep every stage after the recognition too, to find the pass after which answers differ.
    """

    def __init__(self, every: bool = False) -> None:
        self.every = every
        self.recognised: Kept | None = None
        self.finished: Kept | None = None
        self.stages: list[Kept] = []

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if RECOGNISED in step.provides and ctx.detector is not None:
            self.recognised = keep(step.name(), graph, ctx)
        elif FINISHED in step.provides:
            self.finished = keep(step.name(), graph, ctx)
        if self.every and self.recognised is not None and self.finished is None and record.changed:
            self.stages.append(keep(step.name(), graph, ctx))
        return record

    @property
    def of_one_image(self) -> bool:
        """Whether the graph that was recognised can stand for the file: its parts are of one image."""
        return self.recognised is not None and self.recognised.ctx.batch == 1

    def sides(self, recognised: Kept, build: Kept | None = None) -> Sides:
        """The file's graph beside a stage of the compiled one (the finished one when None)."""
        stage = build or self.finished
        assert stage is not None
        return Sides(recognised.graph(), stage.graph(), stage.ctx)


def run(source: Path, steps: Sequence[Pass], order: str | None, every: bool = False) -> Witness:
    """Run passes for the witness alone."""
    witness = Witness(every)
    wanted = list(steps)
    names = [FINISHED in step.provides for step in wanted]
    if any(names):
        wanted = wanted[: names.index(True) + 1]
    PassManager(wanted, [witness], fingerprints=every).run(Graph.load(source), Context(channel_order=order))
    return witness


def for_one_image(steps: Sequence[Pass]) -> list[Pass]:
    """The passes up to the recognition, for one image."""
    end = next(index for index, step in enumerate(steps) if RECOGNISED in step.provides)
    single = steps[end]
    if any(f.name == "batch" for f in dataclasses.fields(single)):
        single = dataclasses.replace(single, batch=1)  # type: ignore[call-arg]
    return [*steps[:end], single]


def restoring(steps: Sequence[Pass]) -> list[Pass]:
    """The passes before the recognition: they change no answer but those that the export itself lost."""
    end = next(index for index, step in enumerate(steps) if RECOGNISED in step.provides)
    return list(steps[:end])
