"""Reads a build folder's passes back, and compares any two models whatever their names are."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.ir.textdiff import count_lines, operators, unified
from onnxgraft.pipeline.record import Check, check_from_dict


@dataclass(frozen=True)
class PassRow:
    """One pass of a build, as its folder tells: `seconds` is None where times.json is absent."""

    index: int
    name: str
    spec: str
    changed: bool
    nodes_before: int
    nodes_after: int
    statistics: dict[str, int | float]
    check: Check | None
    error: str | None
    seconds: float | None
    before: str = field(repr=False)
    after: str = field(repr=False)
    skipped: str | None = None

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
class Run:
    """A build folder, or a reproducer left by a build that failed."""

    folder: Path
    passes: tuple[PassRow, ...]
    manifest: dict[str, Any]
    times: dict[str, Any]
    notes: tuple[str, ...]
    failure: dict[str, Any] | None

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
    """Read a build folder. Raises InputError when it is none, or was made without checks and so has no texts."""
    folder = Path(folder)
    if not (folder / "report.json").is_file():
        raise InputError(f"{folder}: holds no report.json; give the folder of a build (onnxgraft build MODEL -o FOLDER)")
    report = _json(folder / "report.json")
    if report["passes"] and not (folder / "passes").is_dir():
        raise InputError(f"{folder}: was built without checks, so the passes left no texts; build it again with them")
    times = _json(folder / "times.json")
    rows: list[PassRow] = []
    seconds = times.get("passes", {})
    before = _text(folder / "passes" / "00_input.txt")
    for entry in report["passes"]:
        after = _text(folder / "passes" / f"{entry['index']:02d}_{entry['name']}.txt") or before
        spent = seconds[entry["index"] - 1] if isinstance(seconds, list) else seconds.get(entry["name"])
        held = {k: v for k, v in entry.items() if k in PassRow.__dataclass_fields__ and k not in ("seconds", "check")}
        check = check_from_dict(entry["check"]) if entry.get("check") else None
        rows.append(PassRow(**held, check=check, seconds=spent, before=before, after=after))
        before = after
    failure = _json(folder / "reproducer.json") or None
    notes = tuple(report.get("notes", ()))
    return Run(folder, tuple(rows), _json(folder / "manifest.json"), times, notes, failure)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
