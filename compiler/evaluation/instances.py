"""COCO instances files: what is annotated in which picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files import read_json

_LISTS = ("images", "annotations", "categories")


def read_instances(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A COCO instances file, or its content, as a dictionary of our own to change.

    Returns:
        {"images", "annotations", "categories"} with whole numbers as ids. Annotations are numbered from 1, since 0 means
        "unmatched" to COCO's code, and have "iscrowd" and "area", in pixels of the picture.

    Raises:
        InputError: the file cannot be read, or its content is none.
    """
    where = str(source) if isinstance(source, (str, Path)) else "annotations"
    data: Any = read_json(Path(source), "COCO instances") if isinstance(source, (str, Path)) else source
    for key in _LISTS:
        if not isinstance(data, Mapping) or not isinstance(data.get(key), list):
            raise InputError(f"{where}: no COCO instances: the list {key!r} is missing")
    try:
        return {
            "images": [{**image, "id": int(image["id"])} for image in data["images"]],
            "annotations": [_annotation(i, a) for i, a in enumerate(data["annotations"], 1)],
            "categories": [{**category, "id": int(category["id"])} for category in data["categories"]],
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: no COCO instances: an entry has no usable {error}") from error


def _annotation(number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    _, _, width, height = (float(v) for v in entry["bbox"])
    area = float(entry.get("area", width * height))
    return {"iscrowd": 0, **entry, "image_id": int(entry["image_id"]), "area": area, "id": number}
