"""Detections of one image, and the file they are kept in."""

from __future__ import annotations

import io as iolib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxgraft.errors import InputError
from onnxgraft.files import write_atomically

_MAPS = ("masks", "heatmaps", "semantic")


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image, n detections in the order the network gave them.

    boxes    float32 [n, 4], x1, y1, x2, y2 in pixels
    scores   float32 [n]
    classes  int64 [n], contiguous class index from 0
    masks    float32 [n, M, M] probabilities over the box, or None without a mask head
    heatmaps float32 [n, K, S, S] keypoint logits over the box, or None without a keypoint head
    semantic float32 [C, h, w] class logits of the whole canvas at a stride, or None without a semantic head
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: NDArray[np.float32] | None = None
    heatmaps: NDArray[np.float32] | None = None
    semantic: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        expected: dict[str, tuple[int, ...]] = {"boxes": (n, 4), "scores": (n,), "classes": (n,)}
        if self.masks is not None:
            expected["masks"] = (n, *self.masks.shape[-2:])
        if self.heatmaps is not None:
            expected["heatmaps"] = (n, *self.heatmaps.shape[-3:])
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} has shape {found}, expected {shape}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of(
        cls,
        boxes: ArrayLike,
        scores: ArrayLike,
        classes: ArrayLike,
        masks: ArrayLike | None = None,
        heatmaps: ArrayLike | None = None,
        semantic: ArrayLike | None = None,
    ) -> Detections:
        """Detections from anything array-like; an empty list is an empty image."""
        maps = (None if m is None else np.asarray(m, np.float32) for m in (masks, heatmaps, semantic))
        return cls(
            np.asarray(boxes, np.float32).reshape(-1, 4),
            np.asarray(scores, np.float32),
            np.asarray(classes, np.int64),
            *maps,
        )

    def select(self, index: NDArray[Any] | slice) -> Detections:
        """The detections that a mask bool [n], indices int64 [k] or a slice pick; the semantic logits are of all."""
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.classes[index],
            None if self.masks is None else self.masks[index],
            None if self.heatmaps is None else self.heatmaps[index],
            self.semantic,
        )

    def save(self, path: str | Path) -> None:
        """Write an .npz with the keys boxes, scores, classes and, where there are any, masks, heatmaps, semantic."""
        arrays: dict[str, Any] = {
            "boxes": self.boxes,
            "scores": self.scores,
            "classes": self.classes,
        }
        for name in _MAPS:
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        buffer = iolib.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Detections:
        """Read what `save` wrote. Raises InputError for a file that is none of these."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                maps = (arrays.get(name) for name in _MAPS)
                return cls.of(arrays["boxes"], arrays["scores"], arrays["classes"], *maps)
        except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: no detections can be read from it ({cause})") from error
