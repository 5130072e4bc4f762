"""Keeps what the report needs while passes run; a run that fails leaves its report in the reproducer's folder."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from onnxgraft.driver.build_folder import write_passes, write_report_json
from onnxgraft.files import write_json
from onnxgraft.ir.exported_text import Text
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import text
from onnxgraft.manifest import PassTime, Times
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import told
from onnxgraft.pipeline.record import PassRecord, Report, sentence_of
from onnxgraft.report.html import write_report
from onnxgraft.report.stages import NODES, Stages


class Recorder(Instrument):
    """Collects the stages of a run. Put it behind the instruments that fill the records.

    Args:
        on_failure: the folder into which a failing run's passes and report are written.
    """

    def __init__(self, on_failure: Path | None = None) -> None:
        self.on_failure = on_failure
        self.stages = Stages()
        self._records: list[PassRecord] = []
        self._nodes = 0

    def start(self, graph: Graph, ctx: Context) -> None:
        self.stages.add(graph)
        self._first = graph.observed(Text.of)

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        self._nodes = len(graph.nodes)

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        self.stages.add(graph if record.changed else None)
        self._records.append(record)
        return record

    def failed(self, step: Pass, graph: Graph, ctx: Context, error: BaseException) -> None:
        if self.on_failure is None:
            return
        before = self._records[-1].texts[1] if self._records and self._records[-1].texts else self._first
        after = before
        try:  # the graph may be broken in a way that it cannot even be printed
            after = Text(partial(str, text(graph)))
            self.stages.add(graph)
        except Exception:
            self.stages.add(None)
        record = PassRecord(
            index=len(self._records) + 1, name=step.name(), spec=step.spec(), changed=str(before) != str(after), seconds=0.0,
            nodes_before=self._nodes, nodes_after=len(graph.nodes), statistics=dict(ctx.statistics),
            texts=(before, after), error=told(error),
            does=sentence_of(type(step)),
        )  # fmt: skip
        report = Report([*self._records, record], ctx.notes)
        self.on_failure.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.on_failure / "passes", ignore_errors=True)  # of an earlier failure
        write_passes(self.on_failure, report)
        write_report_json(self.on_failure, report)
        times = [PassTime(r.name, r.seconds) for r in self._records]
        Times((*times, PassTime(step.name(), None))).write(self.on_failure)
        self.write(self.on_failure)
        write_report(self.on_failure)

    def write(self, folder: Path) -> None:
        """passes/nodes.json: the nodes after each pass."""
        write_json(folder / "passes" / NODES, self.stages.data(), indent=None)
