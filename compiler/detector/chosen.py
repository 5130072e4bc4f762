"""Numbers that a user chooses in place of the export's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from onnxgraft.detector.spec import DetectorSpec


@dataclass(frozen=True)
class Chosen:
    """Numbers of the suppression that makes the detections; None keeps the export's.

    Attributes:
        score_threshold: a detection's score is above it.
        iou_threshold: of two boxes of a class that overlap by more, the surer one stays.
        detections: at most so many an image.
    """

    score_threshold: float | None = None
    iou_threshold: float | None = None
    detections: int | None = None

    def __str__(self) -> str:
        given = {"score threshold": self.score_threshold, "IoU threshold": self.iou_threshold,
                 "number of detections": self.detections}  # fmt: skip
        return " and ".join(what for what, number in given.items() if number is not None)

    def of(self, spec: DetectorSpec) -> DetectorSpec:
        """The detector with these numbers in its box head or dense head."""
        numbers = {"score_threshold": self.score_threshold, "nms_threshold": self.iou_threshold,
                   "detections_per_image": self.detections}  # fmt: skip
        given: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
        if spec.box_head is not None:
            return replace(spec, box_head=replace(spec.box_head, **given))
        return replace(spec, dense=replace(spec.dense, **given)) if spec.dense is not None else spec
