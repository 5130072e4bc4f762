"""What was recognised in a graph: every number of the detector, and the tensors at which its parts meet.

A spec says nothing about how the detector is rewritten. Fields that end in `_tensor` are names of tensors in the graph
that was analysed; all others are numbers that detectron2's config would give.
It is long because it is one table, of every part with its numbers and their units; there is no algorithm in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from onnxgraft.detector.output_forms import OutputForm
from onnxgraft.detector.outputs import Role

WHITE = 255.0
"""The level of white in a build's input, and in that of an export of detectron2."""


class Head(Enum):
    """The heads that pool the features of detections."""

    MASK = "mask"
    KEYPOINT = "keypoint"


@dataclass(frozen=True)
class ImageInput:
    """The image that the export expects: one CHW picture, float 0..255."""

    input_tensor: str
    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str  # "BGR" or "RGB": which channel comes first
    order_known: bool  # False: the statistics do not tell, and the default of detectron2, or of torchvision's SSD, is assumed
    normalized_tensor: str  # what the first convolution reads: [1, 3, H, W]
    reversed: bool = False  # whether the export has its channels in the other order, and turns them around itself
    white: float = WHITE  # what white is in the export's own input

    @property
    def usual(self) -> bool:
        """Whether the export takes what its network does, as detectron2's exports do: its channels, and levels of 0..255."""
        return not self.reversed and self.white == WHITE

    @property
    def exported_order(self) -> str:
        """The channel order, "BGR" or "RGB", of the export's own input; `order` is the network's."""
        return {"BGR": "RGB", "RGB": "BGR"}[self.order] if self.reversed else self.order


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
    selected_tensor: str  # [1, topk, 4], the decoded boxes that the top-k keeps; of all levels where they are joined before
    topk_node: str
    stride_y: int | None = None  # of rows, where it is not that of columns: torchvision divides sides by a map's, rounding down

    @property
    def anchors(self) -> int:
        return len(self.cell_anchors)


@dataclass(frozen=True)
class RPN:
    """The region proposal network, from its per-level outputs to the proposals.

    detectron2 ranks proposals by their logits; torchvision by their probabilities, of which those below a threshold are
    dropped, and of all levels together.
    """

    levels: tuple[RPNLevel, ...]
    coder: BoxCoder
    pre_nms_topk: int
    post_nms_topk: int
    nms_threshold: float
    min_box_size: float  # both sides exceed it
    proposals_tensor: str  # [R, 4], pixels
    probabilities: bool = False  # whether proposals are ranked by the sigmoid of their logits
    score_threshold: float = 0.0  # probabilities are at least this
    joined_logits_tensor: str | None = None  # [1, sum of topk, 1], where the levels' candidates are selected together


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
    epsilon: float  # in the logarithm, as in detectron2
    channels: int
    feature_tensors: tuple[str, ...]
    boxes_tensor: str  # [R, 4]
    pooled_tensor: str  # [R, C, P, P]
    level_shift: float = 0.0  # behind the logarithm, before rounding down, as in torchvision
    unused_maps: int = 0  # coarsest ones that the rule for levels never chooses, as of torchvision's MobileNets

    @property
    def last_level(self) -> int:
        """The coarsest level that a box can have, counted from the finest."""
        return len(self.scales) - 1 - self.unused_maps


@dataclass(frozen=True)
class CascadeStage:
    """A box head before the last one: its class-agnostic deltas move the boxes that the next stage pools, and its scores
    count in the mean over the stages."""

    pooler: Pooler
    coder: BoxCoder
    logits_tensor: str
    scores_tensor: str  # [R, C + 1]
    deltas_tensor: str  # [R, 4]


@dataclass(frozen=True)
class BoxHead:
    """Class scores and box regression of the proposals, and their suppression. Of a cascade: its last stage."""

    num_classes: int  # without background
    activation: str  # "softmax" or "sigmoid"
    class_agnostic: bool
    coder: BoxCoder
    score_threshold: float
    nms_threshold: float
    detections_per_image: int
    logits_tensor: str
    scores_tensor: str  # [R, C + 1] after the activation
    deltas_tensor: str  # [R, 4C] or [R, 4]; [R, 4(C + 1)] where the background comes first
    background_first: bool = False  # as in torchvision, whose classes count from 1; detectron2's background is the last
    min_box_size: float | None = None  # both sides of a candidate exceed it; None where none is dropped for its size

    @property
    def first_class(self) -> int:
        """The column of scores, and the export's number, of the first class that is no background."""
        return 1 if self.background_first else 0

    @property
    def foreground(self) -> slice:
        """The columns of scores [..., C + 1] that are classes."""
        return slice(self.first_class, self.first_class + self.num_classes)

    @property
    def box_groups(self) -> int:
        """How many boxes a row of deltas has: one, or one a class, that of a background in front included."""
        return 1 if self.class_agnostic else self.num_classes + self.first_class


@dataclass(frozen=True)
class MaskHead:
    """One mask per detection, of its class or class-agnostic."""

    resolution: int
    class_agnostic: bool
    logits_tensor: str  # [D, C | 1, M, M]; [D, C + 1, M, M] where the background comes first


@dataclass(frozen=True)
class PointMap:
    """A feature map that is read between its cells, and how many pixels it covers."""

    feature_tensor: str  # [1, C, H, W]
    width: float
    height: float


@dataclass(frozen=True)
class PointStep:
    """A round of PointRend: logits of each box on a grid twice as fine as before, predicted anew at some of its points."""

    side: int  # of the grid
    points: int  # that are predicted: all of the first grid, of later ones those with the smallest logits of the box's class
    sampled_tensors: tuple[str, ...]  # [1, C, D, P], features at the points, of each map
    coarse_tensor: str  # [D, K, P, 1], coarse logits at the points
    logits_tensor: str  # [D, K | 1, P]
    refined_tensor: str  # [D, K | 1, side, side]


@dataclass(frozen=True)
class PointHead:
    """PointRend: features on a regular grid in each box give a coarse mask of every class; points of the mask are predicted
    from it and from features at the points."""

    side: int  # of the grid
    maps: tuple[PointMap, ...]  # sampled on the grid
    sampled_tensors: tuple[str, ...]  # [1, C, D, side * side], of each map
    coarse_tensor: str  # [D, K, S, S]
    point_maps: tuple[PointMap, ...]  # sampled at points
    steps: tuple[PointStep, ...]

    def read(self) -> list[str]:
        """The tensors that its heads read: features and coarse logits, sampled."""
        return [*self.sampled_tensors, *(n for step in self.steps for n in (*step.sampled_tensors, step.coarse_tensor))]

    def predicted(self) -> list[str]:
        """The tensors that its heads predict: coarse masks and logits of points."""
        return [self.coarse_tensor, *(step.logits_tensor for step in self.steps)]


@dataclass(frozen=True)
class KeypointHead:
    """One heatmap per detection and keypoint."""

    keypoints: int
    resolution: int
    logits_tensor: str  # [D, K, S, S], upsampled as keypoint_rcnn_inference takes it


@dataclass(frozen=True)
class SemanticHead:
    """One class per cell of the canvas, at a stride."""

    num_classes: int
    stride: int
    logits_tensor: str  # [1, C, H / stride, W / stride]


@dataclass(frozen=True)
class DenseLevel:
    """One feature map under a head that predicts classes and boxes at every location."""

    stride: int
    height: int
    width: int
    cell_anchors: tuple[tuple[float, float, float, float], ...]  # FCOS: one square of the stride's size
    anchor_offset: float  # in strides
    topk: int  # candidates kept of this level: anchors with a class each; of SSD's, what each class keeps of all levels
    feature_tensor: str
    logits_tensor: str  # [1, A * K, H, W]; [1, A * (K + 1), H, W] where there is a background
    deltas_tensor: str  # [1, A * 4, H, W]
    centerness_tensor: str | None  # [1, A, H, W]
    anchors_tensor: str | None  # [H*W*A, 4] when the trace still computes it; of all levels where they are joined before
    boxes_tensor: str  # [k, 4], decoded boxes of the candidates above the threshold; of all levels where they are joined before
    scores_tensor: str  # [k], as these
    classes_tensor: str  # [k], as these
    stride_y: int | None = None  # of rows, where it is not that of columns
    step: tuple[float, float] | None = None  # of columns and rows, in pixels, where they are no whole numbers

    @property
    def anchors(self) -> int:
        return len(self.cell_anchors)


@dataclass(frozen=True)
class DenseHead:
    """RetinaNet and FCOS: sigmoid scores, a threshold and a top-k per level, one suppression per class. SSD: a softmax with
    the background in front, a threshold and a top-k per class over all levels.

    `coder` is None where deltas are distances from the anchor's centre to the four sides, in anchor sizes (FCOS,
    Box2BoxTransformLinear).
    """

    levels: tuple[DenseLevel, ...]
    num_classes: int
    coder: BoxCoder | None
    score_threshold: float
    nms_threshold: float
    detections_per_image: int
    clipped_first: bool = False  # before the suppression, and none dropped for its area, as in torchvision; else behind it
    activation: str = "sigmoid"  # or "softmax": over the classes of an anchor and the background, which comes first
    class_topk: int | None = None  # candidates kept of each class, of all levels together; None: each level's own top-k

    @property
    def first_class(self) -> int:
        """The column of logits, and the export's number, of the first class that is no background."""
        return 1 if self.activation == "softmax" else 0

    @property
    def columns(self) -> int:
        """Logits of an anchor: the classes, and the background where there is one."""
        return self.num_classes + self.first_class


@dataclass(frozen=True)
class Outputs:
    """Which output of the export is what."""

    boxes_tensor: str | None
    scores_tensor: str | None
    classes_tensor: str | None
    masks_tensor: str | None = None
    heatmaps_tensor: str | None = None
    semantic_tensor: str | None = None
    image_size_tensor: str | None = None

    @classmethod
    def of(cls, tensors: Mapping[Role, str]) -> Outputs:
        """From tensor names by role; a role without a tensor is absent."""
        return cls(
            tensors.get(Role.BOXES),
            tensors.get(Role.SCORES),
            tensors.get(Role.CLASSES),
            tensors.get(Role.MASKS),
            tensors.get(Role.HEATMAPS),
            tensors.get(Role.SEMANTIC),
            tensors.get(Role.IMAGE_SIZE),
        )


@dataclass(frozen=True)
class DetectorSpec:
    """Everything that was recognised in one exported detector. Parts that it does not have are None."""

    family: str
    image: ImageInput
    outputs: Outputs
    rpn: RPN | None = None
    proposals_input: str | None = None  # Fast R-CNN: [R, 4], pixels
    cascade: tuple[CascadeStage, ...] = ()
    box_pooler: Pooler | None = None
    box_head: BoxHead | None = None
    mask_pooler: Pooler | None = None
    mask_head: MaskHead | None = None
    point_head: PointHead | None = None  # makes the mask head's logits
    keypoint_pooler: Pooler | None = None
    keypoint_head: KeypointHead | None = None
    dense: DenseHead | None = None
    semantic: SemanticHead | None = None
    output_forms: tuple[OutputForm, ...] = ()  # outputs of the export that give something in another form than detectron2
    notes: tuple[str, ...] = field(default=())

    @property
    def num_classes(self) -> int | None:
        """Classes of the detections, without background; None where nothing is classified."""
        head = self.box_head or self.dense
        return head.num_classes if head else None

    @property
    def first_class(self) -> int:
        """The export's number of the first class: 1 where it counts its background as class 0."""
        head = self.box_head or self.dense
        return head.first_class if head else 0

    def box_poolers(self) -> tuple[Pooler, ...]:
        """The poolers of proposals, stage by stage."""
        return (*(stage.pooler for stage in self.cascade), *([self.box_pooler] if self.box_pooler else []))

    def detection_poolers(self) -> dict[Head, Pooler]:
        """The poolers of detections, by the head behind them."""
        both = {Head.MASK: self.mask_pooler, Head.KEYPOINT: self.keypoint_pooler}
        return {head: pooler for head, pooler in both.items() if pooler}

    def poolers(self) -> tuple[Pooler, ...]:
        return (*self.box_poolers(), *self.detection_poolers().values())

    def anchor_levels(self) -> list[RPNLevel | DenseLevel]:
        """The feature maps that have anchors, finest first."""
        return [*(self.rpn.levels if self.rpn else ()), *(self.dense.levels if self.dense else ())]

    def feature_tensors(self) -> list[str]:
        """The feature maps that heads read, each once."""
        maps = [level.feature_tensor for level in self.anchor_levels()]
        maps += [name for pooler in self.poolers() for name in pooler.feature_tensors]
        if self.point_head is not None:
            maps += [each.feature_tensor for each in (*self.point_head.maps, *self.point_head.point_maps)]
        return list(dict.fromkeys(maps))

    def dense_tensors(self) -> list[str]:
        """Predictions at every location ([1, channels, H, W]) from which boxes are decoded."""
        found: list[str | None] = []
        for level in self.rpn.levels if self.rpn else ():
            found += [level.logits_tensor, level.deltas_tensor]
        for dense in self.dense.levels if self.dense else ():
            found += [dense.logits_tensor, dense.deltas_tensor, dense.centerness_tensor]
        return [name for name in found if name]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; absent parts are left out."""
        return {key: value for key, value in asdict(self).items() if value is not None and value != ()}
