"""Detections as JSON: what `infer --json` writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from onnxgraft.files import STDOUT, write_atomically
from onnxgraft.runtime.postprocess import ImageDetections


def to_json(
    file: str | Path, found: ImageDetections, threshold: float = 0.5, names: Sequence[str] = ()
) -> dict[str, Any]:
    """One image: {"file", "boxes" [[x1, y1, x2, y2]] in pixels of the original image, "scores",
    "classes", "names" of the classes, "masks" [COCO RLE], "keypoints" [[x, y, score] * K]}; "names" is absent where none
    are known, "masks" and "keypoints" without such a head. A class past the end of `names` is named by its number.

    Keypoints are flat as in COCO's results, in the boxes' continuous coordinates: COCO's annotations
    count whole pixels, which is 0.5 less."""
    detections = found.detections
    result: dict[str, Any] = {
        "file": str(file),
        "boxes": [[round(v, 4) for v in box] for box in detections.boxes.tolist()],
        "scores": [round(s, 6) for s in detections.scores.tolist()],
        "classes": detections.classes.tolist(),
    }
    if names:
        result["names"] = [names[c] if c < len(names) else str(c) for c in result["classes"]]
    masks = found.encoded(threshold)
    if masks is not None:
        result["masks"] = masks
    if found.keypoints is not None:
        flat = found.keypoints.reshape(len(detections), -1)
        result["keypoints"] = [[round(v, 5) for v in row] for row in flat.tolist()]
    return result


def write(path: str | Path, results: Iterable[dict[str, Any]]) -> None:
    """Write a list of `to_json` objects, one image a line, atomically, or to stdout for STDOUT; they are taken one by one, and
    none is kept."""

    def lines(file: BinaryIO) -> None:
        before = b"[\n"
        for result in results:
            file.write(before + json.dumps(result, allow_nan=False, separators=(",", ":")).encode())
            before = b",\n"
        file.write(b"[]\n" if before == b"[\n" else b"\n]\n")

    if Path(path) == STDOUT:
        lines(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    write_atomically(Path(path), lines)
