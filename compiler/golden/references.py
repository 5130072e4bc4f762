"""Pictures and stored answers of golden graphs: detectron2's own, for comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.files import read_json
from onnxgraft.golden import catalog, pictures, scenes
from onnxgraft.runtime.detections import Detections

_ANSWERS = "answers.npz"  # of a thin detector: everything that its family has, on one picture


def scene_numbers(name: str) -> list[int]:
    """The scenes that a golden graph has answers for."""
    files = (catalog.folder(name) / "reference").glob("scene_*.npz")
    return sorted(int(file.stem.rpartition("_")[2]) for file in files)


def references(name: str) -> Iterator[tuple[int, NDArray[np.uint8], Detections]]:
    """(number, uint8 [H, W, 3] BGR, detections on the canvas) of each stored scene."""
    folder = catalog.folder(name) / "reference"
    for number in scene_numbers(name):
        yield number, scenes.scene(number), Detections.load(folder / f"scene_{number}.npz")


@dataclass(frozen=True, eq=False)
class Answer:
    """What PyTorch says of one picture.

    Attributes:
        name: of the picture.
        image: uint8 [H, W, 3] BGR, of the canvas size.
        detections: without heatmaps and semantic logits.
        proposals: float32 [R, 4], pixels, of a network that takes them.
        heatmaps: float32 [k, K, S, S] of the first k detections.
        semantic: float32 [C, h, w].
    """

    name: str
    image: NDArray[np.uint8]
    detections: Detections
    proposals: NDArray[np.float32] | None = None
    heatmaps: NDArray[np.float32] | None = None
    semantic: NDArray[np.float32] | None = None


def is_thin(name: str) -> bool:
    """Whether a golden graph is a small one of its family, with answers on one picture."""
    return (catalog.folder(name) / _ANSWERS).is_file()


def is_trained(name: str) -> bool:
    """Whether the weights of a golden graph were trained; those of others follow from a seed."""
    return not (catalog.folder(name) / "weights.json").is_file()


def answers(name: str, limit: int = 1) -> Iterator[Answer]:
    """The stored answers of a golden graph, at most `limit`; those of a thin one are of one picture."""
    if not is_thin(name):
        for number in scene_numbers(name)[:limit]:
            file = catalog.folder(name) / "reference" / f"scene_{number}.npz"
            yield Answer(f"scene {number}", scenes.scene(number), Detections.load(file))
        return
    home = catalog.folder(name)
    meta = read_json(home / "meta.json")
    _, height, width = meta["input"]["shape"]
    with np.load(home / _ANSWERS, allow_pickle=False) as held:
        stored = dict(held)
    heatmaps, semantic = (
        None if stored.get(key) is None else stored[key].astype(np.float32) for key in ("keypoint_heatmaps", "semantic_logits")
    )
    detections = detections_of(stored) if "boxes" in stored else Detections.of([], [], [])
    image = pictures.blocks(meta["picture"]["seed"], (height, width))
    proposals = stored.get("proposals")
    yield Answer("its picture", image, detections, proposals, heatmaps, None if semantic is None else semantic[0])


def detections_of(stored: Mapping[str, NDArray[Any]]) -> Detections:
    """Detections of a thin detector's answers: boxes [n, 4], scores [n] (of an RPN logits), masks [n, M, M]."""
    scores, classes = stored["scores"], stored.get("classes")
    if classes is None:  # of an RPN detectron2 gives logits, the compiled graph probabilities
        scores, classes = 1 / (1 + np.exp(-scores.astype(np.float64))), np.zeros(len(scores))
    masks = stored.get("masks")
    if masks is not None and masks.dtype == np.uint8:
        masks = masks.astype(np.float32) / 255
    return Detections.of(stored["boxes"], scores, classes, masks)
