"""Differences of two graphs' texts."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import Path

from onnxgraft.ir.align import align
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import text

_OP = re.compile(r"^ *(?!input |output |function |return )\S.* = (?:[\w.]+::)?(\w+)\(", re.MULTILINE)

CONTEXT = 3


def operators(text: str) -> Counter[str]:
    """How often each operator stands in a graph's text."""
    return Counter(_OP.findall(text))


def unified(before: str, after: str, old: str, new: str, full: bool = False) -> str:
    """A unified diff of two graph texts; empty when they are equal."""
    if before == after:
        return ""
    a, b = before.splitlines(keepends=True), after.splitlines(keepends=True)
    context = max(len(a), len(b)) if full else CONTEXT
    return "".join(difflib.unified_diff(a, b, old, new, n=context))


def count_lines(diff: str) -> tuple[int, int]:
    """Lines that a unified diff adds and removes."""
    body = diff.splitlines()[2:]
    return sum(line.startswith("+") for line in body), sum(line.startswith("-") for line in body)


def model_texts(a: str | Path, b: str | Path) -> tuple[str, str]:
    """The texts of two models, the second one in the first one's names and order, so that neither is a difference.

    Raises:
        InputError: one is not an ONNX file.
    """
    first, second = Graph.load(a), Graph.load(b)
    align(first, second)
    return text(first), text(second)
