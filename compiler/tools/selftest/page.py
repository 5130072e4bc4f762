"""The page of a self-test: the machine and every row, in one file that needs no network."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from onnxgraft.files import write_atomically
from onnxgraft.tools.selftest.results import Record, Result

PAGE = "selftest.html"
_TIMES = ("engine", "graph", "copies", "graph and copies")
HEAD = ("row", "state", "found again", "median ms", "p99", "with copies", "CUDA graph", "of the floor")


def write(record: Record, folder: Path) -> Path:
    """Write selftest.html. Raises InputError."""
    path = folder / PAGE
    write_atomically(path, render(record).encode(errors="replace"))
    return path


def render(record: Record) -> str:
    """The page as HTML."""
    template = files("onnxgraft.tools.selftest").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    widest = max((_median(row) for row in record.rows), default=0.0) or 1.0
    return environment.from_string(template).render(
        machine=record.machine, rows=[_shown(row, widest) for row in record.rows], times=_TIMES, counts=counts(record)
    )


def counts(record: Record) -> dict[str, int]:
    """How many rows are in each state."""
    return dict(Counter(row.state for row in record.rows))


def _median(row: Result) -> float:
    best = row.measured.best if row.measured is not None else None
    return best.median if best is not None else 0.0


def _shown(row: Result, widest: float) -> dict[str, Any]:
    measured = row.measured
    latencies = measured.latencies if measured is not None else {}
    share = row.floor_share
    return {
        "parts": row.key.split("/"), "state": row.state, "bad": row.bad, "reason": row.reason, "made_of": row.made_of,
        "words": measured.words if measured is not None else "", "notes": measured.notes if measured is not None else (),
        "share": f"{measured.share:.1%}" if measured is not None else "",
        "build": f"{row.build_seconds:.1f}", "mib": f"{row.engine_mib:.1f}" if row.engine_mib else "",
        "times": [f"{latencies[how].median:.3f} / {latencies[how].p99:.3f}" if how in latencies else "" for how in _TIMES],
        "floor": f"{row.floor_ms:.3f}" if row.floor_ms is not None else "", "floor_share": f"{share:.0%}" if share else "",
        "bar": f"{100 * _median(row) / widest:.1f}",
    }  # fmt: skip


def table(record: Record) -> list[tuple[str, ...]]:
    """For a terminal, the heading first; a row that did not run says why."""
    rows: list[tuple[str, ...]] = [HEAD]
    for row in record.rows:
        measured = row.measured
        if measured is None:
            rows.append((row.key, row.state, row.reason, *[""] * (len(HEAD) - 3)))
            continue
        best, held = measured.best, measured.latencies
        copies, graph = (f"{held[how].median:.3f}" if how in held else "" for how in ("copies", "graph"))
        figures = (f"{best.median:.3f}", f"{best.p99:.3f}") if best is not None else ("", "")
        share = f"{row.floor_share:.0%}" if row.floor_share is not None else ""
        rows.append((row.key, row.state, measured.words, *figures, copies, graph, share))
    return rows
