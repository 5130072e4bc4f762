"""The graphs that a proof compares, kept while the passes run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from onnxgraft.detector.chosen import Chosen
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.snapshot import Snapshot
from onnxgraft.pipeline.base import DetectorPass, Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTOR, NAMED_OUTPUTS, SIMPLIFIED
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.pipeline.record import PassRecord
from onnxgraft.proof.own_cuts import check_cut, declares_cut
from onnxgraft.proof.sides import Sides


@dataclasses.dataclass(frozen=True)
class Kept:
    """A graph as a pass left it. Weights stay where they are."""

    after: str
    snapshot: Snapshot
    ctx: Context

    def graph(self) -> Graph:
        """A graph of its own."""
        return self.snapshot.graph()


def keep(after: str, graph: Graph, ctx: Context) -> Kept:
    return Kept(after, Snapshot.of(graph), ctx.copy())


class Witness(Instrument):
    """Keeps the file's graph as it came in, as it was recognised, and the compiled one before it is typed or lowered.

    Attributes:
        keeps: False where nothing is to be kept.
        every: keep every stage after the recognition too, to find the pass after which answers differ.
        given: the file after the passes that restore what its export lost, before anything was folded.
        folded: after what does not depend on the image's size was folded, so that numbers can be found in it.
        recognised: folded at the build's size.
        finished: after every rewrite.
        cuts: probes on which parts that passes themselves declare gave the same before and after.
    """

    def __init__(self, keeps: bool = True, every: bool = False) -> None:
        self.keeps, self.every = keeps, every
        self.given: Kept | None = None
        self.folded: Kept | None = None
        self.recognised: Kept | None = None
        self.finished: Kept | None = None
        self.stages: list[Kept] = []
        self.cuts = 0
        self._before_cut: Kept | None = None

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        if not self.keeps:
            return
        self._before_cut = keep("", graph, ctx) if declares_cut(step) else None
        if SIMPLIFIED in step.provided() and self.given is None:
            self.given = keep("", graph, ctx)
        elif DETECTOR in step.provided():
            self.folded = keep("", graph, ctx)

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if not self.keeps:
            return record
        if self._before_cut is not None and record.skipped is None:
            self.cuts += check_cut(step, self._before_cut.graph(), graph, ctx)
        if DETECTOR in step.provided() and ctx.detector is not None:
            self.recognised = keep(step.name(), graph, ctx)
        elif NAMED_OUTPUTS in step.provided():
            self.finished = keep(step.name(), graph, ctx)
        if self.every and self.recognised is not None and self.finished is None and record.changed:
            self.stages.append(keep(step.name(), graph, ctx))
        return record

    def file(self, size: tuple[int, int]) -> Graph:
        """The file's graph for a size: untouched where that is its own."""
        given = self.given or self.folded
        assert given is not None
        assert self.folded is not None
        graph = given.graph()
        return graph if set(size) <= set(graph.gs.inputs[0].shape or ()) else self.folded.graph()

    def sides(self, recognised: Kept, build: Kept | None = None) -> Sides:
        """The file's graph beside a stage of the compiled one (the finished one when None)."""
        stage = build or self.finished
        assert stage is not None
        return Sides(recognised.graph(), stage.graph(), stage.ctx)


def run(
    source: Path, steps: Sequence[Pass], order: str | None, every: bool = False, bounds: Bounds | None = None
) -> Witness:
    """Run passes for the witness alone."""
    witness = Witness(every=every)
    wanted = list(steps)
    named = [NAMED_OUTPUTS in step.provided() for step in wanted]
    if any(named):
        wanted = wanted[: named.index(True) + 1]
    PassManager(wanted, [witness], fingerprints=every).run(Graph.load(source, bounds), Context(channel_order=order))
    return witness


def for_one_image(steps: Sequence[Pass]) -> list[Pass]:
    """The passes up to the recognition, for one image."""
    end = next(index for index, step in enumerate(steps) if DETECTOR in step.provided())
    single = steps[end]
    if any(f.name == "batch" for f in dataclasses.fields(single)):
        single = dataclasses.replace(single, batch=1)  # type: ignore[call-arg]
    return [*steps[:end], single]


def chosen(steps: Sequence[Pass], spec: DetectorSpec) -> Chosen | None:
    """The numbers that options choose; None where some cannot be given to the file."""
    found = Chosen()
    for step in steps:
        if step.as_exported() == step or (isinstance(step, DetectorPass) and step.part(spec) is None):
            continue
        if not isinstance(step, DetectorPass) or step.chosen() == Chosen():
            return None
        found = step.chosen()
    return found


def rewrites(steps: Sequence[Pass]) -> list[Pass]:
    """The passes between the recognition and the named outputs, the latter's included; empty where one of them is missing."""
    provided = [step.provided() for step in steps]
    start = next((index for index, facts in enumerate(provided) if DETECTOR in facts), None)
    end = next((index for index, facts in enumerate(provided) if NAMED_OUTPUTS in facts), None)
    return [] if start is None or end is None else list(steps[start + 1 : end + 1])
