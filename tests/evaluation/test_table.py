"""An evaluation as a user reads it."""

from __future__ import annotations

from onnxgraft.evaluation.table import table

CLASSES = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25, "APs": None, "per_class": {"disc": 0.5}}


def test_columns_are_what_was_measured() -> None:
    boxes = {"images": 2, "detections": 7, "box": CLASSES, "mask": CLASSES}
    rows = table({"rows": {"out": boxes, "stored detections": boxes | {"mask": {}}}})
    assert [list(row) for row in rows] == [
        ["", "box AP", "AP50", "AP75", "mask AP", "AP50", "AP75"],
        ["out", "0.5000", "0.7500", "0.2500", "0.5000", "0.7500", "0.2500"],
        ["stored detections", "0.5000", "0.7500", "0.2500", "-", "-", "-"],
        ["  out: disc", "0.5000", "", "", "0.5000", "", ""],
        ["  stored detections: disc", "0.5000", "", "", "-", "", ""],
    ]
