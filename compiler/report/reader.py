"""Reads a build folder's passes back, one row a pass."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.atomic import recover
from onnxgraft.errors import InputError
from onnxgraft.files import parsed, read_json
from onnxgraft.ir.textdiff import count_lines, operators, unified
from onnxgraft.manifest import MANIFEST, Manifest, Times
from onnxgraft.pipeline.record import Check, check_from_dict

REPORT, REPRODUCER = "report.json", "reproducer.json"


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10_000:
        raise ValueError(f"{str(value)[:60]} is not the number of a pass")
    return value


def _file_name(value: Any) -> str:
    """The name of a pass, which names files too."""
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]{1,200}", value):
        raise ValueError(f"{str(value)[:60]!r} is not the name of a pass")
    return value


@dataclass(frozen=True)
class _Entry:
    """One pass as report.json has it."""

    index: int = field(metadata={"read": _number})
    name: str = field(metadata={"read": _file_name})
    spec: str
    changed: bool
    nodes_before: int
    nodes_after: int
    statistics: dict[str, int | float]
    check: Check | None = field(default=None, metadata={"read": check_from_dict})
    error: str | None = None
    skipped: str | None = None
    does: str = ""


@dataclass(frozen=True)
class _Report:
    passes: tuple[_Entry, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PassRow(_Entry):
    """One pass of a build, as its folder tells: `seconds` is None where times.json is absent."""

    seconds: float | None
    before: str = field(repr=False)
    after: str = field(repr=False)

    @property
    def stem(self) -> str:
        return f"{self.index:02d}_{self.name}"

    def ops(self) -> Counter[str]:
        """Operators gained (positive) and lost (negative), subgraphs included."""
        gained = operators(self.after)
        gained.subtract(operators(self.before))
        return Counter({op: n for op, n in sorted(gained.items()) if n})

    def diff(self, full: bool = False) -> str:
        """Unified diff of the graph's text; empty when nothing changed. `full` shows the unchanged lines too."""
        return unified(self.before, self.after, f"before/{self.name}", f"after/{self.name}", full)

    def stat(self) -> tuple[int, int]:
        """Lines added and removed."""
        return count_lines(self.diff())


@dataclass(frozen=True)
class Failure:
    """What a build that failed left: the pass, its error, the command that replays it, and what was recognised till then."""

    pass_name: str = field(metadata={"key": "pass"})
    error: str
    command: str = ""
    spec: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A build folder, or a reproducer left by a build that failed, which has no manifest."""

    folder: Path
    passes: tuple[PassRow, ...]
    manifest: Manifest | None
    times: Times
    notes: tuple[str, ...]
    failure: Failure | None

    def __getitem__(self, name: str | int) -> PassRow:
        """The pass of that name (the last one, if it ran several times) or number. Raises InputError."""
        text = str(name)
        for row in reversed(self.passes):
            if text in (row.name, row.stem, str(row.index)):
                return row
        known = [row.name for row in self.passes]
        near = difflib.get_close_matches(text, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"passes: {', '.join(known)}"
        raise InputError(f"{self.folder}: has no pass {text!r}; {hint}")


def read_run(folder: str | Path) -> Run:
    """Read a build folder. Raises InputError when it is none, is damaged, or was made without checks and so has no texts."""
    folder = Path(folder)
    recover(folder)
    if not (folder / REPORT).is_file():
        raise InputError(f"{folder}: holds no {REPORT}; give the folder of a build (onnxgraft build MODEL -o FOLDER)")
    report: _Report = parsed(_Report, read_json(folder / REPORT, "report"), str(folder / REPORT))
    if report.passes and not (folder / "passes").is_dir():
        raise InputError(f"{folder}: was built without checks, so the passes left no texts; build it again with them")
    times = Times.read(folder)
    rows: list[PassRow] = []
    before = _text(folder / "passes" / "00_input.txt")
    for entry in report.passes:
        after = _text(folder / "passes" / f"{entry.index:02d}_{entry.name}.txt") or before
        seconds = times.passes[entry.index - 1].seconds if entry.index <= len(times.passes) else None
        rows.append(PassRow(**vars(entry), seconds=seconds, before=before, after=after))
        before = after
    manifest = Manifest.read(folder) if (folder / MANIFEST).is_file() else None
    return Run(folder, tuple(rows), manifest, times, report.notes, _failure(folder))


def _failure(folder: Path) -> Failure | None:
    path = folder / REPRODUCER
    if not path.is_file():
        return None
    found: Failure = parsed(Failure, read_json(path, "reproducer"), str(path))
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
