"""Pictures and stored answers of golden graphs: detectron2's own, for comparison."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxgraft.golden import catalog, scenes
from onnxgraft.runtime.detections import Detections


def scene_numbers(name: str) -> list[int]:
    """The scenes that a golden graph has answers for."""
    files = (catalog.folder(name) / "reference").glob("scene_*.npz")
    return sorted(int(file.stem.rpartition("_")[2]) for file in files)


def references(name: str) -> Iterator[tuple[int, NDArray[np.uint8], Detections]]:
    """(number, uint8 [H, W, 3] BGR, detections on the canvas) of each stored scene."""
    folder = catalog.folder(name) / "reference"
    for number in scene_numbers(name):
        yield number, scenes.scene(number), Detections.load(folder / f"scene_{number}.npz")
