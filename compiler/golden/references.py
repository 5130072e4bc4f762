"""Pictures and stored answers of golden graphs: detectron2's own, for comparison."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError
from onnxgraft.golden import catalog
from onnxgraft.runtime.detections import Detections


@lru_cache(maxsize=1)
def shapes() -> ModuleType:
    """golden_graphs/shapes.py, which draws the scenes. Raises InputError when the source tree is not there."""
    path = catalog.ROOT / "shapes.py"
    spec = importlib.util.spec_from_file_location("onnxgraft_golden_shapes", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{path}: not there; golden graphs come with the source tree")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def scene_numbers(name: str) -> list[int]:
    """The scenes that a golden graph has answers for."""
    files = (catalog.folder(name) / "reference").glob("scene_*.npz")
    return sorted(int(file.stem.rpartition("_")[2]) for file in files)


def references(name: str) -> Iterator[tuple[int, NDArray[np.uint8], Detections]]:
    """(number, uint8 [H, W, 3] BGR, detections on the canvas) of each stored scene."""
    folder = catalog.folder(name) / "reference"
    for number in scene_numbers(name):
        yield number, shapes().scene(number), Detections.load(folder / f"scene_{number}.npz")
