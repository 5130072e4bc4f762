"""Passes and the manager that runs them: the manager decides what changed, keeps records and refuses impossible orders."""

from __future__ import annotations

import dataclasses
import html
import re
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from onnxgraft.errors import InputError, OnnxgraftError, PassError
from onnxgraft.graph import Graph

if TYPE_CHECKING:
    import numpy as np

    from onnxgraft.detector import DetectorSpec


@dataclass
class Context:
    """What passes share while one graph is compiled.

    Attributes:
        facts: what holds of the graph by now ("static-input", "anchors", ...).
        sites: names of tensors that a pass left for later passes, by role ("proposals", "detection_boxes", ...).
        anchors: float32 [H*W*A, 4] per RPN level, once injected.
        statistics: counts of the pass that is running.
        replaced: for a tensor of the spec, the name of the one that took its place.
        lowering: options for the native form of a plugin node, by node name, where its place in the network decides.
        channel_order: what a sidecar says of the image, for graphs whose statistics do not tell.
        notes: sentences for the user, such as repairs.
        unknown_outputs: names of outputs that no analysis knows; the user let them stay.
        calibrate: measures the graph's tensors: groups of names that share a scale -> amax by name.
        ranges: largest magnitudes that calibration saw, by tensor name; None before any calibration.
    """

    facts: set[str] = field(default_factory=set)
    sites: dict[str, str] = field(default_factory=dict)
    anchors: list[np.ndarray] = field(default_factory=list)
    statistics: dict[str, int | float] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    lowering: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    batch: int = 1
    unknown_outputs: list[str] = field(default_factory=list)
    channel_order: str | None = None
    detector: DetectorSpec | None = None
    io: dict[str, Any] = field(default_factory=dict)
    calibrate: Callable[[Graph, Context, list[list[str]]], dict[str, float]] | None = None
    ranges: dict[str, float] | None = None

    def count(self, what: str, amount: int | float = 1) -> None:
        """Add to a statistic of the running pass."""
        self.statistics[what] = self.statistics.get(what, 0) + amount

    def current(self, name: str) -> str:
        """The tensor that now stands for a tensor of the spec."""
        return self.replaced.get(name, name)

    def spec(self) -> DetectorSpec:
        """The recognised detector. Raises OnnxgraftError before fix-input has recognised one."""
        if self.detector is None:
            raise OnnxgraftError("no detector was recognised yet: the pass needs fix-input before it")
        return self.detector


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """One rewrite. Typed fields are its options; the first line of its docstring is its help text.

    Attributes:
        requires: facts that must hold before it runs.
        provides: facts that hold after it.
        touches: what it may change beside nodes: "inputs" and "outputs" (names and types), "weights" (values).
    """

    requires: ClassVar[tuple[str, ...]] = ()
    provides: ClassVar[tuple[str, ...]] = ()
    touches: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, graph: Graph, ctx: Context) -> None:
        """Rewrite `graph` in place. Raises Refusal when a legality case fails."""

    @classmethod
    def name(cls) -> str:
        """The class name in kebab case: InjectAnchors is inject-anchors, RpnNMS is rpn-nms."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    def spec(self) -> str:
        """The pipeline text of this pass: its name and the options that differ from their defaults."""
        options = [
            f"{f.name.replace('_', '-')}={format_option(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name() + ("{" + ",".join(options) + "}" if options else "")


def format_option(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did. `before` and `after` are named texts of the graph; empty when text was not asked for."""

    index: int
    name: str
    spec: str
    changed: bool
    seconds: float
    nodes_before: int
    nodes_after: int
    statistics: dict[str, int | float]
    before: str = ""
    after: str = ""
    diff: str = ""
    check: dict[str, Any] | None = None
    error: str | None = None


@dataclass
class Report:
    """The records of a whole run, in order."""

    records: list[PassRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> PassRecord:
        """The last record of the pass of that name. Raises KeyError."""
        for record in reversed(self.records):
            if record.name == name:
                return record
        raise KeyError(name)

    def _repr_html_(self) -> str:
        """For notebooks: one row a pass."""
        head = "<tr><th>#</th><th>pass</th><th></th><th>nodes</th><th>seconds</th></tr>"
        rows = [
            f"<tr><td>{r.index}</td><td>{html.escape(r.spec)}</td><td>{'changed' if r.changed else ''}</td>"
            f"<td>{r.nodes_before} &rarr; {r.nodes_after}</td><td>{r.seconds:.2f}</td></tr>"
            for r in self.records
        ]
        return f"<table>{head}{''.join(rows)}</table>"

    def to_dict(self, texts: bool = False) -> dict[str, Any]:
        """Plain data for JSON; texts and diffs only when asked for (they have files of their own)."""
        rows = []
        for record in self.records:
            row = dataclasses.asdict(record)
            if not texts:
                for key in ("before", "after", "diff"):
                    row.pop(key)
            rows.append(row)
        return {"passes": rows, "notes": list(self.notes)}


class Instrument:
    """Observes a run. Override what is of interest; none of these may change the graph."""

    def should_run(self, step: Pass, graph: Graph, ctx: Context) -> bool:
        return True

    def start(self, graph: Graph, ctx: Context) -> None:
        """Before the first pass."""

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        """Before each pass that runs."""

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        """After each pass; may return the record with more in it."""
        return record

    def failed(self, step: Pass, graph: Graph, ctx: Context, error: BaseException) -> None:
        """After a pass raised; the graph is as the pass left it."""


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
        fingerprint = graph.fingerprint() if self.fingerprints else ""
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
            after = graph.fingerprint() if self.fingerprints else ""
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
