"""Detections of one image, and the two forms of network output they are read from."""

from __future__ import annotations

import io as iolib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxgraft.errors import InputError
from onnxgraft.runtime._files import write_atomically


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image, n detections in the order the network gave them.

    boxes    float32 [n, 4], x1, y1, x2, y2 in pixels
    scores   float32 [n]
    classes  int64 [n], contiguous class index from 0
    masks    float32 [n, M, M] probabilities over the box, or None without a mask head
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        expected: dict[str, tuple[int, ...]] = {"boxes": (n, 4), "scores": (n,), "classes": (n,)}
        if self.masks is not None:
            expected["masks"] = (n, *self.masks.shape[-2:])
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
    ) -> Detections:
        """Detections from anything array-like; an empty list is an empty image."""
        return cls(
            np.asarray(boxes, np.float32).reshape(-1, 4),
            np.asarray(scores, np.float32),
            np.asarray(classes, np.int64),
            None if masks is None else np.asarray(masks, np.float32),
        )

    def select(self, index: NDArray[Any] | slice) -> Detections:
        """The detections that a boolean mask, an index array or a slice picks."""
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.classes[index],
            None if self.masks is None else self.masks[index],
        )

    def save(self, path: str | Path) -> None:
        """Write an .npz with the keys boxes, scores, classes and, where there are any, masks."""
        arrays: dict[str, Any] = {
            "boxes": self.boxes,
            "scores": self.scores,
            "classes": self.classes,
        }
        if self.masks is not None:
            arrays["masks"] = self.masks
        buffer = iolib.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Detections:
        """Read what `save` wrote. Raises InputError for a file that is none of these."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                masks = arrays.get("masks")
                return cls.of(arrays["boxes"], arrays["scores"], arrays["classes"], masks)
        except Exception as error:  # zipfile, zlib and numpy each raise their own kinds
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: no detections can be read from it ({cause})") from error


def canvas_size(io: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the compiled graph's input, from the manifest's "io" section."""
    spec = io["input"]
    _, *dims = (int(d) for d in spec["shape"])
    return (dims[0], dims[1]) if spec.get("layout", "NCHW") == "NHWC" else (dims[1], dims[2])


def from_outputs(outputs: Mapping[str, NDArray[Any]], io: Mapping[str, Any], image_index: int = 0) -> Detections:
    """One image of a compiled graph's batch, boxes in pixels of the canvas.

    outputs: num_detections [N, 1], detection_boxes [N, D, 4], detection_scores [N, D],
    detection_classes [N, D] and, where there are any, detection_masks [N, D, M, M]; rows past
    num_detections are ignored (they hold class 0). io: the manifest's "io" section.
    """
    i = image_index
    missing = [name for name in _OUTPUTS if name not in outputs]
    if missing:
        raise InputError(f"the network has no output {missing[0]!r}; it gives {sorted(outputs)}")
    n = int(np.asarray(outputs["num_detections"]).reshape(-1)[i])
    boxes = np.asarray(outputs["detection_boxes"][i, :n], np.float32)
    if io.get("boxes", "normalized") == "normalized":
        height, width = canvas_size(io)
        boxes = boxes * np.array([width, height, width, height], np.float32)
    masks = outputs.get("detection_masks")
    return Detections.of(
        boxes,
        outputs["detection_scores"][i, :n],
        outputs["detection_classes"][i, :n],
        None if masks is None else masks[i, :n],
    )


_OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")


def from_raw_export(outputs: Mapping[str, NDArray[Any]]) -> Detections:
    """Detections of a graph as detectron2 exports it, whose outputs have no fixed names or order.

    Recognised by shape and dtype: boxes float [n, 4], masks float [n, 1, M, M], scores float [n],
    classes int [n]; the image size int [2] is ignored. With n = 2 the image size has the classes'
    shape: then the larger pair is the size. Raises InputError when one of them is missing.
    """
    arrays = [np.asarray(a) for a in outputs.values()]
    floats = [a for a in arrays if a.dtype.kind == "f"]
    boxes = _one("boxes", [a for a in floats if a.ndim == 2 and a.shape[1] == 4])
    n = len(boxes)
    scores = _one("scores", [a for a in floats if a.shape == (n,)])
    integers = [a for a in arrays if a.dtype.kind in "iu" and a.shape == (n,)]
    if n == 2:
        integers = sorted(integers, key=lambda a: int(a.min()))[:1]
    masks = [a for a in floats if a.ndim == 4 and a.shape[:2] == (n, 1)]
    return Detections.of(
        boxes,
        scores,
        _one("classes", integers),
        _one("masks", masks)[:, 0] if masks else None,
    )


def _one(what: str, found: list[NDArray[Any]]) -> NDArray[Any]:
    if len(found) != 1:
        raise InputError(
            f"the outputs are not those of a detectron2 export: {len(found)} of them look like the {what}, expected one"
        )
    return found[0]
