"""An evaluation as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_COLUMNS = (
    ("box", "AP", "box AP"), ("box", "AP50", "AP50"), ("box", "AP75", "AP75"),
    ("mask", "AP", "mask AP"), ("mask", "AP50", "AP50"), ("mask", "AP75", "AP75"),
    ("keypoint", "AP", "keypoint AP"), ("keypoint", "AP50", "AP50"), ("keypoint", "AP75", "AP75"),
    ("box", "APr", "APr"), ("box", "APc", "APc"), ("box", "APf", "APf"),
    ("mask", "APr", "mask APr"), ("mask", "APc", "mask APc"), ("mask", "APf", "mask APf"),
    ("panoptic", "PQ", "PQ"), ("panoptic", "SQ", "SQ"), ("panoptic", "RQ", "RQ"),
    ("panoptic", "PQ_things", "PQ things"), ("panoptic", "PQ_stuff", "PQ stuff"),
    ("semantic", "mIoU", "mIoU"), ("semantic", "pACC", "pixel accuracy"),
)  # fmt: skip


def table(report: dict[str, Any]) -> list[Sequence[str]]:
    """Rows for a terminal: a heading, one row a subject, then one a class; columns of what was measured."""
    subjects = report["rows"]
    usual = ("box", "mask") if any("box" in scores for scores in subjects.values()) else ()
    known = {c[:2] for scores in subjects.values() for c in _COLUMNS if c[1] in scores.get(c[0], {})}
    columns = [c for c in _COLUMNS if c[:2] in known or (c[0] in usual and c[1] in ("AP", "AP50", "AP75"))]
    rows: list[Sequence[str]] = [("", *(heading for _, _, heading in columns))]
    for subject, scores in subjects.items():
        rows.append((subject, *(_number(scores.get(kind, {}).get(metric)) for kind, metric, _ in columns)))
    for subject, scores in subjects.items():
        parts = {kind: scores.get(kind, {}).get("per_class", {}) for kind, _, _ in columns}
        for name in dict.fromkeys(name for kind in parts for name in parts[kind]):
            first = {kind: metric for kind, metric, _ in reversed(columns)}
            cells = [_number(parts[kind].get(name)) if first[kind] == metric else "" for kind, metric, _ in columns]
            rows.append((f"  {subject}: {name}", *cells))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
