"""Runs passes again and again until they change nothing more."""

from __future__ import annotations

from dataclasses import dataclass

from onnxgraft.errors import Refusal
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import fingerprint as fingerprint_of
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context


@dataclass(frozen=True, kw_only=True)
class Repeat(Pass):
    """Run passes until none of them changes the graph: repeat{max=4}(simplify,my-pass).

    Refuses when the graph still changes in round `max`: two passes that undo each other never come to rest.
    """

    steps: tuple[Pass, ...] = ()
    max: int = 4

    def __post_init__(self) -> None:
        given: set[str] = set()
        needed: dict[str, None] = {}
        for step in self.steps:
            needed.update(dict.fromkeys(fact for fact in step.requires if fact not in given))
            given.update(step.provides)
        own = {"requires": tuple(needed), "provides": tuple(sorted(given))}
        own["touches"] = tuple(sorted({what for step in self.steps for what in step.touches}))
        for name, value in own.items():
            object.__setattr__(self, name, value)  # a Repeat promises what its passes promise

    def spec(self) -> str:
        options = f"{{max={self.max}}}" if self.max != 4 else ""
        return f"{self.name()}{options}({','.join(step.spec() for step in self.steps)})"

    def run(self, graph: Graph, ctx: Context) -> None:
        fingerprint = fingerprint_of(graph)
        for _ in range(self.max):
            started, restless = fingerprint, []
            for step in self.steps:
                graph.current_pass = step.name()
                step.run(graph, ctx)
                graph.cleanup()
                after = fingerprint_of(graph)
                if after != fingerprint:
                    restless.append(step.name())
                fingerprint = after
            ctx.count("rounds")
            if fingerprint == started:
                return
        raise Refusal(f"still changes the graph after {self.max} rounds, in {', '.join(restless)}: it never converges")
