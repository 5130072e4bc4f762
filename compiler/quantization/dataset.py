"""The pictures that a calibration sees: a folder of files, or drawn scenes of the golden graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxgraft.errors import InputError, os_reason
from onnxgraft.golden import scenes
from onnxgraft.runtime.images import read_image

SCENES = 100  # drawn for a golden graph when `calibrate` is given no images
FEW_SCENES = 8  # the same when a build or a benchmark needs some and has none


@dataclass(frozen=True)
class Picture:
    """One picture: its name, what identifies its content, and how to get it (uint8 [H, W, 3] BGR)."""

    name: str
    digest: str
    load: Callable[[], NDArray[np.uint8]]


def folder(path: Path, limit: int | None = None) -> list[Picture]:
    """The pictures of a folder in the order of their names, at most `limit`. Raises InputError when there are none."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder of calibration images")
    known = Image.registered_extensions()
    files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in known)
    if not files:
        raise InputError(f"{path}: holds no images; calibration needs some (about 100 are enough)")
    return [_file(file) for file in _limited(files, limit)]


def _file(path: Path) -> Picture:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {os_reason(error)}") from error
    return Picture(path.name, digest, lambda: read_image(path))


def drawn(count: int, first: int = 0) -> list[Picture]:
    """Drawn scenes from the calibration seeds, numbers `first` on; each uint8 [1344, 1344, 3] BGR."""

    def scene(index: int) -> Picture:
        name = f"scene_{index}"
        seeds = f"integer shapes {scenes.CALIBRATION} {index}"
        digest = hashlib.sha256(seeds.encode()).hexdigest()[:16]
        return Picture(name, digest, lambda: np.asarray(scenes.scene(index, scenes.CALIBRATION)))

    return [scene(i) for i in range(first, first + count)]


def shard(pictures: Sequence[Picture], text: str) -> list[Picture]:
    """The part `i/n` (i from 1) of a set: every n-th picture. Raises InputError."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise InputError(f"--shard {text!r}: write I/N, such as 1/4")
    chosen = list(pictures[int(part) - 1 :: int(parts)])
    if not chosen:
        raise InputError(f"--shard {text}: the set has only {len(pictures)} images")
    return chosen


def _limited(files: list[Path], limit: int | None) -> list[Path]:
    """At most `limit` of them, spread evenly: neighbours in a folder are often alike."""
    if limit is None or limit >= len(files):
        return files
    if limit < 1:
        raise InputError(f"--limit {limit}: give at least 1")
    return [files[i * len(files) // limit] for i in range(limit)]
