"""Keeps the text of the graph before and after each pass, of which a record makes their diff."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from onnxgraft.ir.exported_text import Text
from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import PassRecord


class Texts(Instrument):
    """Gives every record its texts."""

    def start(self, graph: Graph, ctx: Context) -> None:
        self._last = graph.observed(Text.of)

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        before, after = self._last, graph.observed(Text.of) if record.changed else self._last
        self._last = after
        return dataclasses.replace(record, texts=(before, after))


class PrintText(Instrument):
    """Gives the graph's text after chosen passes (or after every one that changed it) to `write`."""

    def __init__(self, write: Callable[[str], None], after: str | None = None) -> None:
        self._write = write
        self.wanted = after

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if record.name == self.wanted or (self.wanted is None and record.changed):
            self._write(f"# after {record.spec}\n{graph.observed(Text.of)}")
        return record
