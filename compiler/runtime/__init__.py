"""Images in, detections out: placing, running, pasting masks, drawing, JSON, COCO evaluation."""

from onnxgraft.runtime.detections import Detections, from_outputs, from_raw_export
from onnxgraft.runtime.images import Placement, ResizeRule, place, read_image
from onnxgraft.runtime.infer import ImageResult, Session
from onnxgraft.runtime.match import MatchReport, match
from onnxgraft.runtime.postprocess import ImageDetections, to_original

__all__ = [
    "Detections",
    "ImageDetections",
    "ImageResult",
    "MatchReport",
    "Placement",
    "ResizeRule",
    "Session",
    "from_outputs",
    "from_raw_export",
    "match",
    "place",
    "read_image",
    "to_original",
]
