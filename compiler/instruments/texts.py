"""Keeps the text of the graph before and after each pass, and their unified diff."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable

from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import Printed
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import PassRecord

_CONTEXT = 3


class Texts(Instrument):
    """Fills `before`, `after` and `diff` of every record."""

    def __init__(self) -> None:
        self._last = ""

    def start(self, graph: Graph, ctx: Context) -> None:
        self._last = graph.observed(Printed).text

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        before, after = self._last, graph.observed(Printed).text if record.changed else self._last
        self._last = after
        return dataclasses.replace(record, before=before, after=after, diff=unified(before, after, record.name))


def unified(before: str, after: str, name: str) -> str:
    """A unified diff of two graph texts; empty when they are equal."""
    if before == after:
        return ""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, f"before/{name}", f"after/{name}", n=_CONTEXT))


class PrintText(Instrument):
    """Gives the graph's text after chosen passes (or after every one that changed it) to `write`."""

    def __init__(self, write: Callable[[str], None], after: str | None = None) -> None:
        self._write = write
        self.wanted = after

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        if record.name == self.wanted or (self.wanted is None and record.changed):
            self._write(f"# after {record.spec}\n{graph.observed(Printed).text}")
        return record
