"""What is kept of each pass of a run."""

from __future__ import annotations

import dataclasses
import html
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from onnxgraft.ir.exported_text import Text
from onnxgraft.ir.textdiff import unified


@dataclass(frozen=True)
class Figures:
    """Detections before and after a pass, over all images of the check.

    Attributes:
        images, reference, matched, found: numbers of images, of detections before, of those found again, and after.
        box_px, score: the largest differences of the matched ones, in pixels and of the score.
        mask, heatmap, semantic: the largest differences of maps; None where there are none.
        exact: whether all is the same by the strict match.
    """

    images: int
    reference: int
    matched: int
    found: int
    box_px: float
    score: float
    mask: float | None
    heatmap: float | None
    semantic: float | None
    exact: bool

    def __str__(self) -> str:
        words = f"{self.matched}/{self.reference} same, box {self.box_px:.2g} px, score {self.score:.2g}"
        maps = (("mask", self.mask), ("heatmap", self.heatmap), ("semantic", self.semantic))
        return words + "".join(f", {kind} {worst:.2g}" for kind, worst in maps if worst is not None)


@dataclass(frozen=True)
class Unchanged:
    """The pass left the graph as it was."""

    def __str__(self) -> str:
        return "unchanged"


@dataclass(frozen=True)
class NotChecked:
    """The graph after the pass cannot be run on the images."""

    reason: str

    def __str__(self) -> str:
        return f"not checked: {self.reason}"


@dataclass(frozen=True)
class First:
    """The first stage that runs: nothing to compare with."""

    detections: int

    def __str__(self) -> str:
        return f"{self.detections} detections"


@dataclass(frozen=True)
class Compared:
    """Compared with the last stage that ran."""

    figures: Figures

    def __str__(self) -> str:
        return str(self.figures)


@dataclass(frozen=True)
class Intended:
    """Compared, and different on purpose."""

    figures: Figures
    reason: str

    def __str__(self) -> str:
        return f"intended change: {self.figures}"


Check = Unchanged | NotChecked | First | Compared | Intended
_STATES: dict[str, type[Check]] = {
    "unchanged": Unchanged, "not checked": NotChecked, "first": First, "compared": Compared, "intended change": Intended,
}  # fmt: skip


def check_to_dict(check: Check) -> dict[str, Any]:
    """Plain data: the state, and what belongs to it."""
    state = next(word for word, kind in _STATES.items() if isinstance(check, kind))
    held = dataclasses.asdict(check)
    return {"state": state, **held.pop("figures", {}), **held}


def check_from_dict(row: dict[str, Any]) -> Check:
    """What check_to_dict wrote. Raises KeyError or TypeError when it is something else."""
    held = dict(row)
    kind = _STATES[held.pop("state")]
    if kind in (Compared, Intended):
        names = [f.name for f in dataclasses.fields(Figures)]
        held = {"figures": Figures(**{name: held.pop(name) for name in names}), **held}
    return kind(**held)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did. `before`, `after` and `diff` are named texts of the graph, made when they are looked at; empty when
    text was not asked for.

    `skipped` says why the pass had nothing to do; None when it ran. `does` is the first sentence of its docstring.
    """

    index: int
    name: str
    spec: str
    changed: bool
    seconds: float
    nodes_before: int
    nodes_after: int
    statistics: dict[str, int | float]
    texts: tuple[Text, Text] | None = field(default=None, repr=False, compare=False)
    skipped: str | None = None
    check: Check | None = None
    error: str | None = None
    does: str = ""

    @property
    def before(self) -> str:
        return str(self.texts[0]) if self.texts else ""

    @property
    def after(self) -> str:
        return str(self.texts[1]) if self.texts else ""

    @cached_property
    def diff(self) -> str:
        """The unified diff of the texts; empty when they are equal."""
        return unified(self.before, self.after, f"before/{self.name}", f"after/{self.name}")


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
            f"<tr><td>{r.index}</td><td>{html.escape(r.spec)}</td><td>{_what(r)}</td>"
            f"<td>{r.nodes_before} &rarr; {r.nodes_after}</td><td>{r.seconds:.2f}</td></tr>"
            for r in self.records
        ]
        return f"<table>{head}{''.join(rows)}</table>"

    def to_dict(self, texts: bool = False) -> dict[str, Any]:
        """Plain data for JSON; texts and diffs only when asked for (they have files of their own)."""
        rows = []
        for record in self.records:
            row = dataclasses.asdict(dataclasses.replace(record, texts=None))
            del row["texts"]
            row["check"] = check_to_dict(record.check) if record.check else None
            rows.append(row | {k: getattr(record, k) for k in ("before", "after", "diff")} if texts else row)
        return {"passes": rows, "notes": list(self.notes)}


def sentence_of(kind: type) -> str:
    """What a pass does, in the first line of its docstring."""
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _what(record: PassRecord) -> str:
    if record.skipped is not None:
        return f"skipped: {html.escape(record.skipped)}"
    return "changed" if record.changed else ""
