"""The shape of a pass."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import NDArray

from onnxgraft.detector.chosen import Chosen
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import PassError
from onnxgraft.ir.graph import Graph
from onnxgraft.options import coerce_fields
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import DETECTOR, Fact, facts

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class Region:
    """A part of a graph that a pass rewrites, by the tensors at which it begins and ends.

    starts, ends: names before the pass. new_starts, new_ends: names after it, in the same order, where they are others.
    feeds: arrays for the starts, in order, one tuple a probe; where there are none, seeded ones of the tensors' types and
    shapes are made. limit: how far values may be apart, as a share of the largest one.
    """

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    new_starts: tuple[str, ...] = ()
    new_ends: tuple[str, ...] = ()
    feeds: tuple[tuple[NDArray[Any], ...], ...] = ()
    limit: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """One rewrite. Typed fields are its options; the first line of its docstring is its help text.

    Attributes:
        requires: facts that must hold before it runs, or their names.
        provides: facts that hold after it; their checks run then.
        modifies: what it may change beside nodes: "inputs" and "outputs" (names and types), "weights" (values).
    """

    requires: ClassVar[tuple[Fact | str, ...]] = ()
    provides: ClassVar[tuple[Fact | str, ...]] = ()
    modifies: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the options. Raises InputError for a value that a field's type does not allow."""
        coerce_fields(self, lambda field: f"{self.name()}{{{field.replace('_', '-')}}}")

    @abstractmethod
    def run(self, graph: Graph, ctx: Context) -> None:
        """Rewrite `graph` in place. Raises Refusal when a legality case fails."""

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        """Why it has nothing to do here, or None; a pass with nothing to do is skipped and gives no fact."""
        return None

    @property
    def changes_answers(self) -> str:
        """Why detections may differ after it, by intent; empty when they must not. May depend on options."""
        return ""

    def portable(self) -> Pass:
        """The form of this pass after which ONNX Runtime computes on the CPU what an engine computes."""
        return self

    def as_exported(self) -> Pass:
        """The form of this pass that keeps the export's own numbers where options choose others."""
        return self

    def cut(self, graph: Graph, ctx: Context) -> Region | None:
        """The part that it has just rewritten in `graph`: a build then runs both forms on probes and stops where they
        differ. None: only the build's own proof sees what it did."""
        return None

    def perform(self, graph: Graph, ctx: Context) -> str | None:
        """Run it where it applies, and hold it to its facts. Returns why it was skipped, or None.

        Raises:
            PassError: a fact that it requires does not hold before it, or one that it provides does not hold after it.
        """
        reason = self.applies(graph, ctx)
        if reason is not None:
            return reason
        for fact in self.required():
            problem = _unmet(fact, graph, ctx)
            if problem:
                raise PassError(self.name(), f"requires {fact.name!r}, but {problem}")
        self.run(graph, ctx)
        graph.cleanup()
        for fact in self.provided():
            problem = fact.holds(graph, ctx) if fact.holds else None
            if problem:
                raise PassError(self.name(), f"says that it provides {fact.name!r}, but {problem}")
            ctx.facts.add(fact.name)
        return None

    def required(self) -> tuple[Fact, ...]:
        return facts(self.requires)

    def provided(self) -> tuple[Fact, ...]:
        return facts(self.provides)

    def modified(self) -> tuple[str, ...]:
        return self.modifies

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


@dataclass(frozen=True, kw_only=True)
class DetectorPass(Pass, Generic[PartT]):
    """A rewrite of one part of a detector, skipped where the detector lacks it.

    Attributes:
        noun: what the part is called: "box head".
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (DETECTOR,)
    noun: ClassVar[str]

    @staticmethod
    @abstractmethod
    def part(spec: DetectorSpec) -> PartT | None:
        """The part that it rewrites; None where the detector lacks it."""

    @abstractmethod
    def rewrite(self, graph: Graph, ctx: Context, part: PartT) -> None:
        """Rewrite `graph` in place. Raises Refusal when a legality case fails."""

    def chosen(self) -> Chosen:
        """The numbers of its part that options choose, where the file can be given them too; `as_exported` is without them."""
        return Chosen()

    def applies(self, graph: Graph, ctx: Context) -> str | None:
        return None if self.part(ctx.spec()) is not None else f"the detector has no {self.noun}"

    def run(self, graph: Graph, ctx: Context) -> None:
        part = self.part(ctx.spec())
        if part is not None:
            self.rewrite(graph, ctx, part)


def _unmet(fact: Fact, graph: Graph, ctx: Context) -> str | None:
    """Why a fact that is required does not hold: one that no pass gave may hold all the same, where that can be seen."""
    if fact.name in ctx.facts:
        return None
    return fact.holds(graph, ctx) if fact.holds else "nothing before it gave that"


def format_option(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)
