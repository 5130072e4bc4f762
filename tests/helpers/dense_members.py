"""The golden dense detectors, and a small one whose every level is a handful of locations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from onnxgraft.golden import catalog, pictures
from onnxgraft.runtime.detections import Detections

MEMBERS = {"retinanet": "retinanet_thin", "fcos": "fcos_thin"}


def picture(seed: int) -> np.ndarray:
    """The golden members' kind of picture: uint8 BGR [256, 320, 3]."""
    return pictures.blocks(seed, (256, 320))


def meta(family: str) -> dict[str, Any]:
    return json.loads((catalog.ROOT / MEMBERS[family] / "meta.json").read_text())


def golden_picture(family: str) -> np.ndarray:
    return picture(meta(family)["picture"]["seed"])


def answers(family: str) -> Detections:
    """PyTorch's detections of the golden picture."""
    stored = np.load(catalog.ROOT / MEMBERS[family] / "answers.npz")
    return Detections.of(stored["boxes"], stored["scores"], stored["classes"], None)


def model(family: str, cache: Path, variant: str = "") -> Path:
    return catalog.resolve(MEMBERS[family] + variant, cache)
