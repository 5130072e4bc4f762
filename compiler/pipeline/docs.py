"""What a pass says about itself: docstring, options, facts, an example."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from onnxgraft.options import hints_of, type_text
from onnxgraft.pipeline.base import Pass, format_option
from onnxgraft.pipeline.facts import facts
from onnxgraft.pipeline.registry import Registry
from onnxgraft.pipeline.repeat import Repeat

_SAMPLES = {"int": 100, "float": 0.5, "bool": True, "str": "text"}


@dataclass(frozen=True)
class Option:
    """One option as the pipeline text writes it."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class PassDoc:
    """The documentation of one pass."""

    name: str
    summary: str
    text: str
    options: tuple[Option, ...]
    requires: tuple[str, ...]
    provides: tuple[str, ...]
    modifies: tuple[str, ...]
    example: str


def describe(kind: type[Pass]) -> PassDoc:
    """Read a pass's documentation off its class."""
    lines = inspect.cleandoc(kind.__doc__ or "").split("\n")
    hints = hints_of(kind)
    fields = [f for f in dataclasses.fields(kind) if not (kind is Repeat and f.name == "steps")]
    options = tuple(Option(f.name.replace("_", "-"), type_text(hints[f.name]), _default(f.default)) for f in fields)
    shown = [f"{o.name}={_sample(o)}" for o in options[:3]]
    example = kind.name() + ("{" + ",".join(shown) + "}" if shown else "")
    if kind is Repeat:
        example += "(simplify)"
    text = "\n".join(lines[1:]).strip()
    requires, provides = (tuple(fact.name for fact in facts(given)) for given in (kind.requires, kind.provides))
    return PassDoc(kind.name(), lines[0], text, options, requires, provides, kind.modifies, example)


def describe_all(registry: Registry) -> list[PassDoc]:
    return [describe(kind) for kind in registry]


def markdown(docs: list[PassDoc]) -> str:
    """A page about all passes."""
    parts = [
        "# Passes\n\nThe order is the one in which a build runs them. Options are written `name{option=value}`; "
        "this page is what `onnxgraft passes --markdown` prints.\n"
    ]
    for doc in docs:
        part = [f"## {doc.name}\n", doc.summary + "\n"]
        if doc.text:
            part.append(doc.text + "\n")
        if doc.options:
            rows = [f"| `{o.name}` | {o.type.replace('|', 'or')} | `{o.default}` |" for o in doc.options]
            part.append("\n".join(["| option | type | default |", "|---|---|---|", *rows]) + "\n")
        facts = [f"{label}: {', '.join(f'`{w}`' for w in words)}" for label, words in facts_of(doc) if words]
        if facts:
            part.append("; ".join(facts) + ".\n")
        part.append(f"    {doc.example}\n")
        parts.append("\n".join(part))
    return "\n".join(parts)


def facts_of(doc: PassDoc) -> list[tuple[str, tuple[str, ...]]]:
    return [("requires", doc.requires), ("provides", doc.provides), ("modifies", doc.modifies)]


def _default(value: Any) -> str:
    return "none" if value is None else format_option(value)


def _sample(option: Option) -> str:
    word = option.type.split(" ")[0]
    return option.default if option.default != "none" else format_option(_SAMPLES.get(word, word))
