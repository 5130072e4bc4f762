"""What is kept of each pass of a run."""

from __future__ import annotations

import dataclasses
import html
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PassRecord:
    """What one pass did. `before` and `after` are named texts of the graph; empty when text was not asked for."""

    index: int
    name: str
    spec: str
    changed: bool
    seconds: float
    nodes_before: int
    nodes_after: int
    statistics: dict[str, int | float]
    before: str = ""
    after: str = ""
    diff: str = ""
    check: dict[str, Any] | None = None
    error: str | None = None


@dataclass
class Report:
    """The records of a whole run, in order."""

    records: list[PassRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> PassRecord:
        """The last record of the pass of that name. Raises KeyError."""
        for record in reversed(self.records):
            if record.name == name:
                return record
        raise KeyError(name)

    def _repr_html_(self) -> str:
        """For notebooks: one row a pass."""
        head = "<tr><th>#</th><th>pass</th><th></th><th>nodes</th><th>seconds</th></tr>"
        rows = [
            f"<tr><td>{r.index}</td><td>{html.escape(r.spec)}</td><td>{'changed' if r.changed else ''}</td>"
            f"<td>{r.nodes_before} &rarr; {r.nodes_after}</td><td>{r.seconds:.2f}</td></tr>"
            for r in self.records
        ]
        return f"<table>{head}{''.join(rows)}</table>"

    def to_dict(self, texts: bool = False) -> dict[str, Any]:
        """Plain data for JSON; texts and diffs only when asked for (they have files of their own)."""
        rows = []
        for record in self.records:
            row = dataclasses.asdict(record)
            if not texts:
                for key in ("before", "after", "diff"):
                    row.pop(key)
            rows.append(row)
        return {"passes": rows, "notes": list(self.notes)}
