"""Detections of one image, and the two forms of network output they are read from."""

from __future__ import annotations

import io as iolib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxgraft.detector.spec import Outputs
from onnxgraft.errors import InputError
from onnxgraft.files import write_atomically


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
        """The detections that a boolean mask, an index array or a slice picks; the semantic logits are of all."""
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


def canvas_size(io: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the compiled graph's input, from the manifest's "io" section."""
    spec = io["input"]
    _, *dims = (int(d) for d in spec["shape"])
    return (dims[0], dims[1]) if spec.get("layout", "NCHW") == "NHWC" else (dims[1], dims[2])


def from_outputs(outputs: Mapping[str, NDArray[Any]], io: Mapping[str, Any], image_index: int = 0) -> Detections:
    """One image of a compiled graph's batch, boxes in pixels of the canvas.

    outputs: num_detections [N, 1], detection_boxes [N, D, 4], detection_scores [N, D] and, where there are any,
    detection_classes [N, D] (one class without them), detection_masks [N, D, M, M], detection_keypoint_heatmaps
    [N, D, K, S, S], semantic_logits [N, C, h, w]; rows past num_detections are ignored (they hold class 0). A network
    that has nothing but semantic_logits detects nothing. io: the manifest's "io" section.
    """
    i = image_index
    semantic = outputs.get("semantic_logits")
    if semantic is not None and set(outputs) == {"semantic_logits"}:
        return Detections.of([], [], [], semantic=semantic[i])
    missing = [name for name in _OUTPUTS if name not in outputs]
    if missing:
        raise InputError(f"the network has no output {missing[0]!r}; it gives {sorted(outputs)}")
    n = int(np.asarray(outputs["num_detections"]).reshape(-1)[i])
    boxes = np.asarray(outputs["detection_boxes"][i, :n], np.float32)
    if io.get("boxes", "normalized") == "normalized":
        height, width = canvas_size(io)
        boxes = boxes * np.array([width, height, width, height], np.float32)
    classes, masks, heatmaps = (
        outputs[name][i, :n] if name in outputs else None
        for name in ("detection_classes", "detection_masks", "detection_keypoint_heatmaps")
    )
    scores = outputs["detection_scores"][i, :n]
    classes = np.zeros(n, np.int64) if classes is None else classes
    return Detections.of(boxes, scores, classes, masks, heatmaps, None if semantic is None else semantic[i])


_OUTPUTS = ("num_detections", "detection_boxes", "detection_scores")
_MAPS = ("masks", "heatmaps", "semantic")


def from_raw_export(outputs: Mapping[str, NDArray[Any]], roles: Outputs | None = None) -> Detections:
    """Detections of a graph as detectron2 exports it, whose outputs have no fixed names or order.

    Recognised by shape and dtype: boxes float [n, 4], masks float [n, 1, M, M], heatmaps float [n, K, S, S], scores
    float [n], classes int [n] (one class without them), semantic logits float [1, C, h, w] or [C, h, w]; the image size
    int [2] is ignored. With n = 2 the image size has the classes' shape: then the larger pair is the size. roles: what an
    analysis found, which settles what shapes leave open. Raises InputError when one of them is missing.
    """
    arrays = {name: np.asarray(a) for name, a in outputs.items()}
    named = _named_maps(arrays, roles)
    floats = [a for a in arrays.values() if a.dtype.kind == "f"]
    if len(floats) == len(arrays) == 1 and floats[0].ndim in (3, 4):
        return Detections.of([], [], [], semantic=_first(floats[0]))
    boxes = _one("boxes", [a for a in floats if a.ndim == 2 and a.shape[1] == 4])
    n = len(boxes)
    scores = _one("scores", [a for a in floats if a.shape == (n,)])
    integers = [a for a in arrays.values() if a.dtype.kind in "iu" and a.shape == (n,)]
    if n == 2:
        integers = sorted(integers, key=lambda a: int(a.min()))[:1]
    classes = _one("classes", integers) if integers else np.zeros(n, np.int64)
    maps = named or _maps_by_shape([a for a in floats if a.ndim == 4], n)
    masks = maps.get("masks")
    return Detections.of(
        boxes,
        scores,
        classes,
        None if masks is None else masks[:, 0],
        maps.get("heatmaps"),
        _first(maps["semantic"]) if "semantic" in maps else None,
    )


def _named_maps(arrays: Mapping[str, NDArray[Any]], roles: Outputs | None) -> dict[str, NDArray[Any]]:
    if roles is None:
        return {}
    names = {"masks": roles.masks_tensor, "heatmaps": roles.heatmaps_tensor, "semantic": roles.semantic_tensor}
    return {role: arrays[name] for role, name in names.items() if name is not None and name in arrays}


def _maps_by_shape(maps: list[NDArray[Any]], n: int) -> dict[str, NDArray[Any]]:
    """Masks have one channel and are probabilities; heatmaps are square, one a detection; the rest is semantic."""
    found: dict[str, NDArray[Any]] = {}
    for a in maps:
        if a.shape[:2] == (n, 1) and (not a.size or (a.min() >= 0 and a.max() <= 1)):
            role = "masks"
        elif a.shape[0] == n and a.shape[2] == a.shape[3] and not (n == 1 and len(maps) > 1):
            role = "heatmaps"
        else:
            role = "semantic"
        if role in found:
            raise InputError(f"the outputs are not those of a detectron2 export: two of them look like the {role}")
        found[role] = a
    return found


def _first(maps: NDArray[Any]) -> NDArray[Any]:
    """The first image's map of [N, C, h, w]; [C, h, w] as it is."""
    return maps[0] if maps.ndim == 4 else maps


def _one(what: str, found: list[NDArray[Any]]) -> NDArray[Any]:
    if len(found) != 1:
        raise InputError(
            f"the outputs are not those of a detectron2 export: {len(found)} of them look like the {what}, expected one"
        )
    return found[0]
