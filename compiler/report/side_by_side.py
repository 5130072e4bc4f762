"""Turns a unified diff into rows of two columns, pairing the lines that define the same value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

Row = tuple[str, int, str, int, str]  # kind (" ", "-", "+", "~", "@"), number and text on the left, on the right
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")


def rows(diff: str) -> Iterator[Row]:
    """Rows of a unified diff of graph texts; a context row's text stands on the left only, "~" is a changed line."""
    left = right = 0
    gone: list[str] = []
    made: list[str] = []
    for line in diff.splitlines()[2:]:
        if line[:1] == "-":
            gone.append(line[1:])
            continue
        if line[:1] == "+":
            made.append(line[1:])
            continue
        yield from _block(gone, made, left, right)
        left, right = left + len(gone), right + len(made)
        gone, made = [], []
        hunk = _HUNK.match(line)
        if hunk:
            left, right = int(hunk[1]), int(hunk[2])
            yield "@", left, f"line {left}", right, ""
        else:
            yield " ", left, line[1:], right, ""
            left, right = left + 1, right + 1
    yield from _block(gone, made, left, right)


def _block(gone: list[str], made: list[str], left: int, right: int) -> Iterator[Row]:
    before, after = ([_defined(line) for line in side] for side in (gone, made))
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            for i, j in zip(range(a, b), range(c, d), strict=True):
                yield "~", left + i, gone[i], right + j, made[j]
            continue
        for i in range(a, b):
            yield "-", left + i, gone[i], 0, ""
        for j in range(c, d):
            yield "+", 0, "", right + j, made[j]


def _defined(line: str) -> str:
    """The value that a line defines, or the line itself."""
    head, colon, _ = line.partition(": ")
    return head if colon else line
