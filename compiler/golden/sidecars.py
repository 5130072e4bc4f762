"""Which sidecar belongs to a model."""

from __future__ import annotations

from pathlib import Path

from onnxgraft.detector.sidecar import Sidecar, read
from onnxgraft.golden import catalog


def find(model: str, source: Path, given: Path | None = None) -> Sidecar:
    """The sidecar of a model: the file given, `model.json` beside it, or a golden graph's meta.json.

    Raises:
        InputError: the file given is missing, or a file is not a sidecar.
    """
    if given is not None:
        return read(given)
    if model in catalog.names():
        return read(catalog.folder(model) / "meta.json")
    beside = source.with_suffix(".json")
    return read(beside) if beside.is_file() else Sidecar()
