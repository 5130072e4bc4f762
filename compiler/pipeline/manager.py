"""Passes and the manager that runs them: the manager decides what changed, keeps records and refuses impossible orders."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Sequence

from onnxgraft.errors import InputError, OnnxgraftError, PassError
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import fingerprint as fingerprint_of
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import PassRecord, Report


class PassManager:
    """Runs passes in order under instruments.

    Raises at construction:
        PassError: a pass requires a fact that no earlier pass provides.
    """

    def __init__(
        self, passes: Sequence[Pass], instruments: Iterable[Instrument] = (), fingerprints: bool = True
    ) -> None:
        self.passes = list(passes)
        self.instruments = list(instruments)
        self.fingerprints = fingerprints
        check_order(self.passes)

    def run(self, graph: Graph, ctx: Context | None = None) -> Report:
        """Run all passes over `graph`, in place.

        Raises:
            PassError: a pass failed, or left a graph that an instrument found broken; names the pass.
            InputError: an option of a pass has an impossible value.
        """
        ctx = ctx or Context()
        report = Report(notes=ctx.notes)
        for instrument in self.instruments:
            instrument.start(graph, ctx)
        fingerprint = fingerprint_of(graph) if self.fingerprints else ""
        for step in self.passes:
            if not all(i.should_run(step, graph, ctx) for i in self.instruments):
                continue
            record, fingerprint = self._run_one(step, graph, ctx, len(report.records) + 1, fingerprint)
            report.records.append(record)
        return report

    def _run_one(self, step: Pass, graph: Graph, ctx: Context, index: int, fingerprint: str) -> tuple[PassRecord, str]:
        ctx.statistics = {}
        graph.current_pass = step.name()
        nodes_before = len(graph.nodes)
        for instrument in self.instruments:
            instrument.before(step, graph, ctx)
        started = time.perf_counter()
        try:
            step.run(graph, ctx)
            graph.cleanup()
            ctx.facts.update(step.provides)
            seconds = time.perf_counter() - started
            after = fingerprint_of(graph) if self.fingerprints else ""
            record = PassRecord(
                index=index,
                name=step.name(),
                spec=step.spec(),
                changed=after != fingerprint or not self.fingerprints,
                seconds=seconds,
                nodes_before=nodes_before,
                nodes_after=len(graph.nodes),
                statistics=dict(ctx.statistics),
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


def told(error: BaseException) -> str:
    """An error in one line: ours as they are, others with their kind and the line that raised them."""
    if isinstance(error, PassError):
        return error.reason  # who tells it names the pass
    if isinstance(error, OnnxgraftError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"


def check_order(passes: Sequence[Pass]) -> None:
    """Raises PassError when a pass comes before the fact that it requires."""
    facts: set[str] = set()
    for step in passes:
        for fact in step.requires:
            if fact not in facts:
                givers = sorted({p.name() for p in passes if fact in p.provides})
                hint = (
                    f"; {givers[0]} provides it, but comes later"
                    if givers
                    else "; no pass of this pipeline provides it"
                )
                raise PassError(step.name(), f"requires {fact!r}{hint}")
        facts.update(step.provides)
