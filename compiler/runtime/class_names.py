"""Names of classes from a file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError, os_reason
from onnxgraft.files import read_json


def read(path: Path, classes: int | None = None) -> tuple[str, ...]:
    """The names by class index.

    Args:
        path: a text file with a name a line, or JSON: a list of names, a sidecar or another object with "class_names" (or
            detectron2's "thing_classes"), or COCO annotations, whose categories count in the order of their ids.
        classes: how many there must be; None where it is not known.

    Raises:
        InputError: it cannot be read, holds no names, or another number of them.
    """
    if path.suffix.lower() == ".json":
        names = _from_json(read_json(path, "class names"))
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(f"{path}: {os_reason(error)}") from error
        except ValueError as error:
            raise InputError(f"{path}: no class names: not a text file in UTF-8") from error
        names = [line.strip() for line in lines if line.strip()]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: no class names: expected a name a line, or JSON with a list of names")
    if classes is not None and len(names) != classes:
        raise InputError(f"{path}: {len(names)} class names, but the network has {classes} classes")
    return tuple(names)


def _from_json(data: Any) -> list[Any]:
    if isinstance(data, dict):
        for key in ("class_names", "thing_classes", "names"):
            if isinstance(data.get(key), list):
                return list(data[key])
        if isinstance(data.get("categories"), list):
            held = [c for c in data["categories"] if isinstance(c, dict) and isinstance(c.get("id"), int)]
            return [c.get("name") for c in sorted(held, key=lambda c: c["id"])]
        return []
    return data if isinstance(data, list) else []
