"""Pipelines as text: "simplify,fix-input{height=1344,width=1344},inject-anchors" parses, prints and parses again."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.options import coerce, hints_of, optional
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.registry import Registry
from onnxgraft.pipeline.repeat import Repeat

_ITEM = re.compile(r"\s*(?P<name>[a-z0-9][a-z0-9-]*)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?P<end>,|\(|\)|$)")
_AFTER_GROUP = re.compile(r"\s*(?P<end>,|\)|$)")


@dataclass(frozen=True)
class Pipeline:
    """An ordered list of passes with their options."""

    passes: tuple[Pass, ...]

    @staticmethod
    def parse(text: str, registry: Registry) -> Pipeline:
        """Read a pipeline from text. Raises InputError that names the place and what is allowed there."""
        passes, _ = _parse(text, 0, registry, nested=False)
        if not passes:
            raise InputError("pipeline: no pass is named")
        return Pipeline(tuple(passes))

    def __str__(self) -> str:
        return ",".join(step.spec() for step in self.passes)

    def skip(self, name: str) -> Pipeline:
        """The pipeline without one pass. Raises InputError when it has none of that name."""
        self.index(name)
        return Pipeline(tuple(step for step in self.passes if step.name() != name))

    def stop_after(self, name: str) -> Pipeline:
        """The pipeline up to and with one pass. Raises InputError when it has none of that name."""
        return Pipeline(self.passes[: self.index(name) + 1])

    def index(self, name: str) -> int:
        """Where the (last) pass of that name stands. Raises InputError when there is none."""
        names = [step.name() for step in self.passes]
        if name not in names:
            raise InputError(f"pipeline has no pass {name!r}; it has {', '.join(names)}")
        return len(names) - 1 - names[::-1].index(name)


def _parse(text: str, position: int, registry: Registry, nested: bool) -> tuple[list[Pass], int]:
    """The passes from `position` to the end, or to the bracket that closes a repeat(...)."""
    passes: list[Pass] = []
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None:
            raise _unreadable(text, position)
        kind, options, start = registry[match["name"]], match["options"] or "", position
        position, end = match.end(), match["end"]
        if end == "(":
            if not issubclass(kind, Repeat):
                raise InputError(f"pipeline: {kind.name()!r} holds no passes; only repeat(...) does")
            inner, position = _parse(text, position, registry, nested=True)
            passes.append(dataclasses.replace(make(kind, options), steps=tuple(inner)))  # type: ignore[call-arg]
            after = _AFTER_GROUP.match(text, position)
            if after is None:
                raise _unreadable(text, position)
            position, end = after.end(), after["end"]
        elif issubclass(kind, Repeat):
            raise InputError("pipeline: repeat needs passes: repeat{max=4}(first,second)")
        else:
            passes.append(make(kind, options))
        if end == ")":
            if not nested:
                raise _unreadable(text, start)
            return passes, position
    if nested:
        raise InputError("pipeline: repeat( is not closed")
    return passes, position


def _unreadable(text: str, position: int) -> InputError:
    return InputError(f"pipeline: cannot read {text[position : position + 30]!r}; "
                      "write passes as name or name{option=value,...}, separated by commas")  # fmt: skip


def make(kind: type[Pass], options: str) -> Pass:
    """A pass from its option text. Raises InputError."""
    hints = hints_of(kind)
    fields = {f.name for f in dataclasses.fields(kind) if not (kind is Repeat and f.name == "steps")}
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in options.split(","))):
        key, equals, raw = (word.strip() for word in part.partition("="))
        field = key.replace("-", "_")
        if not equals or field not in fields:
            known = ", ".join(f.name.replace("_", "-") for f in dataclasses.fields(kind) if f.name in fields) or "none"
            raise InputError(f"pass {kind.name()!r} has no option {part!r}; options: {known}")
        given = None if raw == "none" and optional(hints[field]) else raw
        values[field] = coerce(given, hints[field], f"{kind.name()}{{{key}}}")
    return kind(**values)
