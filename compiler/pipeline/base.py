"""The shape of a pass."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxgraft.ir.graph import Graph
from onnxgraft.pipeline.context import Context


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
