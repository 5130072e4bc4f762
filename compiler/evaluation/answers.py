"""What a network answered for one picture, as far as an evaluation needs it, and the file that it waits in."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.panoptic import Panoptic
from onnxgraft.runtime.postprocess import ImageDetections
from onnxgraft.runtime.session import ImageResult


@dataclass(frozen=True, eq=False)
class Answer:
    """found: detections in the picture. classes: how many semantic ones, 0 without a semantic head; semantic: int32 [H, W].
    segments: of a Panoptic FPN. only_segments: the network detects nothing, by its kind."""

    found: ImageDetections
    classes: int = 0
    semantic: NDArray[np.int32] | None = None
    segments: Panoptic | None = None
    only_segments: bool = False

    @classmethod
    def of(cls, result: ImageResult, semantic: bool, panoptic: bool) -> Answer:
        """Of a result; semantic map and segments as far as they are asked for, since they take time."""
        logits = result.raw.semantic
        return cls(
            result.found,
            0 if logits is None else len(logits),
            result.semantic if semantic else None,
            result.panoptic if panoptic else None,
            result.detects_nothing,
        )

    def to_bytes(self) -> bytes:
        """As an .npz that `from_bytes` reads."""
        held = self.found.detections
        arrays: dict[str, Any] = {"boxes": held.boxes, "scores": held.scores, "classes": held.classes}
        arrays |= {"size": np.array(self.found.size), "mask_boxes": self.found.mask_boxes, "number": np.array(self.classes)}
        arrays |= {"only": np.array(self.only_segments)}
        optional = {"masks": held.masks, "keypoints": self.found.keypoints, "semantic": self.semantic}
        arrays |= {name: values for name, values in optional.items() if values is not None}
        if self.segments is not None:
            arrays |= {"ids": self.segments.ids, "info": np.array(json.dumps(self.segments.info))}
        buffer = io.BytesIO()
        whole = self.semantic is not None or self.segments is not None  # maps shrink to a few percent, masks hardly at all
        (np.savez_compressed if whole else np.savez)(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Answer:
        """What `to_bytes` wrote. Raises ValueError or KeyError for anything else."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            detections = Detections(arrays["boxes"], arrays["scores"], arrays["classes"], arrays.get("masks"))
            height, width = arrays["size"].tolist()
            found = ImageDetections(detections, (height, width), arrays["mask_boxes"], arrays.get("keypoints"))
            segments = Panoptic(arrays["ids"], tuple(json.loads(str(arrays["info"])))) if "ids" in arrays else None
            number, only = int(arrays["number"]), bool(arrays["only"])
            return cls(found, number, arrays.get("semantic"), segments, only)
