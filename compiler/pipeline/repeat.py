"""Runs passes again and again until they change nothing more."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import fingerprint as fingerprint_of
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import Fact


@dataclass(frozen=True, kw_only=True)
class Repeat(Pass):
    """Run passes until none of them changes the graph: repeat{max=4}(simplify,my-pass).

    It requires, provides and modifies what its passes do. Refuses when the graph still changes in round `max`: two passes
    that undo each other never come to rest.
    """

    steps: tuple[Pass, ...] = ()
    max: int = 4

    def required(self) -> tuple[Fact, ...]:
        given: set[Fact] = set()
        needed: dict[Fact, None] = {}
        for step in self.steps:
            needed.update(dict.fromkeys(fact for fact in step.required() if fact not in given))
            given.update(step.provided())
        return tuple(needed)

    def provided(self) -> tuple[Fact, ...]:
        return tuple(dict.fromkeys(fact for step in self.steps for fact in step.provided()))

    def modified(self) -> tuple[str, ...]:
        return tuple(sorted({what for step in self.steps for what in step.modified()}))

    @property
    def changes_answers(self) -> str:
        return "; ".join(filter(None, (step.changes_answers for step in self.steps)))

    def portable(self) -> Pass:
        return dataclasses.replace(self, steps=tuple(step.portable() for step in self.steps))

    def as_exported(self) -> Pass:
        return dataclasses.replace(self, steps=tuple(step.as_exported() for step in self.steps))

    def spec(self) -> str:
        options = f"{{max={self.max}}}" if self.max != 4 else ""
        return f"{self.name()}{options}({','.join(step.spec() for step in self.steps)})"

    def perform(self, graph: Graph, ctx: Context) -> str | None:
        skipped = self._rounds(graph, ctx)
        return "; ".join(dict.fromkeys(skipped)) if len(skipped) == len(self.steps) > 0 else None

    def run(self, graph: Graph, ctx: Context) -> None:
        self._rounds(graph, ctx)

    def _rounds(self, graph: Graph, ctx: Context) -> list[str]:
        """Rounds until one changes nothing; why passes were skipped in that one. Raises Refusal, PassError."""
        fingerprint = fingerprint_of(graph)
        for _ in range(self.max):
            started, restless = fingerprint, []
            skipped: list[str] = []
            for step in self.steps:
                graph.current_pass = step.name()
                reason = step.perform(graph, ctx)
                if reason is not None:
                    skipped.append(reason)
                    continue
                after = fingerprint_of(graph)
                if after != fingerprint:
                    restless.append(step.name())
                fingerprint = after
            ctx.count("rounds")
            if fingerprint == started:
                return skipped
        raise Refusal(f"still changes the graph after {self.max} rounds, in {', '.join(restless)}: it never converges")
