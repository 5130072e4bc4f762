"""What was recognised in a graph: every number of the detector, and the tensors at which its parts meet.

A spec says nothing about how the detector is rewritten. Fields that end in `_tensor` are names of tensors in the graph
that was analysed; all others are numbers that detectron2's config would give.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ImageInput:
    """The image that the export expects: one CHW picture, float 0..255."""

    input_tensor: str
    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str  # "BGR" or "RGB": which channel comes first
    order_known: bool  # False: the statistics do not tell, and detectron2's default is assumed
    normalized_tensor: str  # what the first convolution reads: [1, 3, H, W]


@dataclass(frozen=True)
class BoxCoder:
    """Box2BoxTransform: deltas are divided by `weights` (dx, dy, dw, dh); dw and dh are clamped at `scale_clamp`."""

    weights: tuple[float, float, float, float]
    scale_clamp: float


@dataclass(frozen=True)
class RPNLevel:
    """One feature map under the region proposal network."""

    stride: int
    height: int
    width: int
    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[float, ...]
    cell_anchors: tuple[tuple[float, float, float, float], ...]  # x1, y1, x2, y2 around the first location's centre
    anchor_offset: float  # in strides
    topk: int  # what the trace keeps of this level: pre-NMS top-k, or all anchors when there are fewer
    feature_tensor: str
    logits_tensor: str  # [1, A, H, W]
    deltas_tensor: str  # [1, 4A, H, W]
    anchors_tensor: str | None  # [H*W*A, 4] when the trace still computes it
    selected_tensor: str  # [1, topk, 4], the decoded boxes that the top-k keeps
    topk_node: str

    @property
    def anchors(self) -> int:
        return len(self.cell_anchors)


@dataclass(frozen=True)
class RPN:
    """The region proposal network, from its per-level outputs to the proposals."""

    levels: tuple[RPNLevel, ...]
    coder: BoxCoder
    pre_nms_topk: int
    post_nms_topk: int
    nms_threshold: float
    min_box_size: float
    proposals_tensor: str  # [R, 4], pixels


@dataclass(frozen=True)
class Pooler:
    """ROIPooler: boxes to fixed-size features, each from the level that its area selects."""

    resolution: int
    sampling_ratio: int  # 0: adaptive
    aligned: bool
    scales: tuple[float, ...]  # 1 / stride of each map, finest first
    min_level: int
    canonical_level: float
    canonical_size: float
    epsilon: float
    channels: int
    feature_tensors: tuple[str, ...]
    boxes_tensor: str  # [R, 4]
    pooled_tensor: str  # [R, C, P, P]


@dataclass(frozen=True)
class BoxHead:
    """Class scores and box regression of the proposals, and their suppression."""

    num_classes: int
    activation: str  # "softmax" (last class is background) or "sigmoid"
    class_agnostic: bool
    coder: BoxCoder
    score_threshold: float
    nms_threshold: float
    detections_per_image: int
    logits_tensor: str
    scores_tensor: str  # [R, C + 1] after the activation
    deltas_tensor: str  # [R, 4C] or [R, 4]


@dataclass(frozen=True)
class MaskHead:
    """One mask per detection, of its class or class-agnostic."""

    resolution: int
    class_agnostic: bool
    logits_tensor: str  # [D, C | 1, M, M]


@dataclass(frozen=True)
class Outputs:
    """Which output of the export is what."""

    boxes_tensor: str
    scores_tensor: str
    classes_tensor: str
    masks_tensor: str | None
    image_size_tensor: str | None


@dataclass(frozen=True)
class DetectorSpec:
    """Everything that was recognised in one exported detector."""

    family: str
    image: ImageInput
    rpn: RPN
    box_pooler: Pooler
    box_head: BoxHead
    mask_pooler: Pooler | None
    mask_head: MaskHead | None
    outputs: Outputs
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
