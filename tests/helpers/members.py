"""The thin golden members: their descriptions, pictures and PyTorch's answers."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np

from onnxgraft.golden import catalog, pictures

MEMBERS = sorted(path.name for path in catalog.ROOT.glob("*_thin"))

OPSET_11 = [name for name in catalog.names() if name.endswith("_thin@opset11")]


@cache
def meta(name: str) -> dict[str, Any]:
    return json.loads((catalog.folder(name) / "meta.json").read_text())


@cache
def picture(name: str) -> np.ndarray:
    _, height, width = meta(name)["input"]["shape"]
    return pictures.blocks(meta(name)["picture"]["seed"], (height, width))


@cache
def answers(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(catalog.folder(name) / "answers.npz"))
