"""The shape of what observes a run."""

from __future__ import annotations

from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.record import PassRecord


class Instrument:
    """Observes a run. Override what is of interest; none of these may change the graph."""

    def should_run(self, step: Pass, graph: Graph, ctx: Context) -> bool:
        return True

    def start(self, graph: Graph, ctx: Context) -> None:
        """Before the first pass."""

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        """Before each pass, also one that turns out to have nothing to do."""

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        """After each pass (`record.skipped` says why one did not run); may return the record with more in it."""
        return record

    def failed(self, step: Pass, graph: Graph, ctx: Context, error: BaseException) -> None:
        """After a pass raised; the graph is as the pass left it."""
