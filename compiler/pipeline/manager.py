"""Passes and the manager that runs them: the manager decides what changed, keeps records and refuses impossible orders."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Sequence

from onnxgraft.errors import InputError, OnnxgraftError, PassError
from onnxgraft.ir.changes import changed
from onnxgraft.ir.exporting import Exported
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import Fact, facts
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import PassRecord, Report, sentence_of


class PassManager:
    """Runs passes in order under instruments.

    Args:
        passes: in the order in which they run.
        instruments: what observes them.
        fingerprints: find out which passes changed the graph; without, all that were not skipped count as having.
        given: facts that hold before the first pass, of a graph on which passes ran before (its context's facts).

    Raises:
        PassError: a pass requires a fact that is not given and that no earlier pass provides.
    """

    def __init__(
        self,
        passes: Sequence[Pass],
        instruments: Iterable[Instrument] = (),
        fingerprints: bool = True,
        given: Iterable[Fact | str] = (),
    ) -> None:
        self.passes = list(passes)
        self.instruments = list(instruments)
        self.fingerprints = fingerprints
        self.given = facts(given)
        check_order(self.passes, self.given)

    def run(self, graph: Graph, ctx: Context | None = None, done: int = 0) -> Report:
        """Run all passes over `graph`, in place, but the first `done`, which ran over it before, with `ctx`.

        Raises:
            PassError: a pass failed, or left a graph that an instrument found broken; names the pass.
            InputError: an option of a pass has an impossible value.
        """
        ctx = ctx or Context()
        ctx.facts.update(fact.name for fact in self.given)
        report = Report(notes=ctx.notes)
        for instrument in self.instruments:
            instrument.start(graph, ctx)
        seen = _seen(graph) if self.fingerprints else None
        for step in self.passes[done:]:
            if not all(i.should_run(step, graph, ctx) for i in self.instruments):
                continue
            record, seen = self._run_one(step, graph, ctx, len(report.records) + 1, seen)
            report.records.append(record)
        return report

    def _run_one(
        self, step: Pass, graph: Graph, ctx: Context, index: int, before: Exported | None
    ) -> tuple[PassRecord, Exported | None]:
        ctx.statistics = {}
        graph.current_pass = step.name()
        nodes_before = len(graph.nodes)
        for instrument in self.instruments:
            instrument.before(step, graph, ctx)
        started = time.perf_counter()
        try:
            seen = graph.observed.forget()
            skipped = step.perform(graph, ctx)
            seconds = time.perf_counter() - started
            if skipped is not None:
                graph.observed.remember(seen)
            after = _seen(graph) if self.fingerprints and skipped is None else before
            record = PassRecord(
                index=index,
                name=step.name(),
                spec=step.spec(),
                skipped=skipped,
                changed=skipped is None and (before is None or after is None or changed(before, after)),
                seconds=seconds,
                nodes_before=nodes_before,
                nodes_after=len(graph.nodes),
                statistics=dict(ctx.statistics),
                does=sentence_of(type(step)),
            )
            for instrument in self.instruments:
                record = instrument.after(step, graph, ctx, record)
        except InputError:  # an option that cannot be: the user's to mend, nothing to reproduce
            raise
        except Exception as error:
            for instrument in self.instruments:
                instrument.failed(step, graph, ctx, error)
            if isinstance(error, PassError):
                raise
            if isinstance(error, OnnxgraftError):
                raise PassError(step.name(), str(error)) from error
            reason = told(error)
            raise PassError(step.name(), reason) from error
        return record, after


def _seen(graph: Graph) -> Exported | None:
    """The graph as it is exported; None where it cannot be, which is Verify's to tell."""
    try:
        return graph.observed(Graph.exported)
    except Exception:
        return None


def told(error: BaseException) -> str:
    """An error in one line: ours as they are, others with their kind and the line that raised them."""
    if isinstance(error, PassError):
        return error.reason  # who tells it names the pass
    if isinstance(error, OnnxgraftError):
        return str(error)
    raised = traceback.extract_tb(error.__traceback__)
    where = f" ({raised[-1].filename.rsplit('/', 1)[-1]}:{raised[-1].lineno})" if raised else ""
    return f"{type(error).__name__}: {error}{where}"


def check_order(passes: Sequence[Pass], given: Iterable[Fact] = ()) -> None:
    """Raises PassError when a pass comes before the fact that it requires, were none of them skipped."""
    known = set(given)
    for step in passes:
        for fact in step.required():
            if fact not in known:
                givers = sorted({p.name() for p in passes if fact in p.provided()})
                hint = (
                    f"; {givers[0]} provides it, but comes later"
                    if givers
                    else "; no pass of this pipeline provides it"
                )
                raise PassError(step.name(), f"requires {fact.name!r}{hint}")
        known.update(step.provided())
