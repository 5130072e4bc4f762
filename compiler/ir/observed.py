"""What observers of a graph make of it between two passes: its text, its fingerprint, its skeleton, each made once for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

G = TypeVar("G")
T = TypeVar("T")


class Observed(Generic[G]):
    """A memory of functions of one graph, which the pass manager empties before each pass."""

    def __init__(self, graph: G) -> None:
        self._graph = graph
        self._seen: dict[Callable[[G], Any], Any] = {}

    def __call__(self, make: Callable[[G], T]) -> T:
        """`make(graph)`, made once; nobody may change what it gives."""
        if make not in self._seen:
            self._seen[make] = make(self._graph)
        return self._seen[make]

    def forget(self) -> dict[Callable[[G], Any], Any]:
        """A pass is going to rewrite the graph. Gives what was seen, for a pass that then did nothing."""
        seen, self._seen = self._seen, {}
        return seen

    def remember(self, seen: dict[Callable[[G], Any], Any]) -> None:
        """The graph is as it was when `forget` was called."""
        self._seen = seen
