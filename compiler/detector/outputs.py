"""The outputs of a detector: the part each plays, and what a compiled graph calls it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What an output of a detector is."""

    NUM_DETECTIONS = "num_detections"
    BOXES = "boxes"
    SCORES = "scores"
    CLASSES = "classes"
    MASKS = "masks"
    HEATMAPS = "heatmaps"
    SEMANTIC = "semantic"
    IMAGE_SIZE = "image_size"  # of an export only: the compiled graph's canvas is fixed


MAPS = frozenset({Role.MASKS, Role.HEATMAPS, Role.SEMANTIC})


@dataclass(frozen=True)
class Output:
    """One output of a compiled graph.

    Attributes:
        role: what it is.
        tensor: its name, which NVIDIA's sample gives the first five.
        dtype: of its elements.
        shape: N images, D detections an image, M x M cells of a mask, K heatmaps of S x S cells, C classes of h x w cells.
    """

    role: Role
    tensor: str
    dtype: str
    shape: tuple[str | int, ...]


# In the order in which a compiled graph has them; a detector without a part lacks its output.
OUTPUTS = (
    Output(Role.NUM_DETECTIONS, "num_detections", "int32", ("N", 1)),
    Output(Role.BOXES, "detection_boxes", "float32", ("N", "D", 4)),
    Output(Role.SCORES, "detection_scores", "float32", ("N", "D")),
    Output(Role.CLASSES, "detection_classes", "int32", ("N", "D")),
    Output(Role.MASKS, "detection_masks", "float32", ("N", "D", "M", "M")),
    Output(Role.HEATMAPS, "detection_keypoint_heatmaps", "float32", ("N", "D", "K", "S", "S")),
    Output(Role.SEMANTIC, "semantic_logits", "float32", ("N", "C", "h", "w")),
)
TENSORS = {output.role: output.tensor for output in OUTPUTS}
