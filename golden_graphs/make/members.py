"""One thin member of each family of detectron2's zoo: its real structure, few channels, seeded weights.

Runs where torch and detectron2 are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BottleneckBlock, ResNet

from golden_graphs.make import seeding
from onnxgraft.frontends.detectron2 import configs
from onnxgraft.frontends.detectron2.configs import Source

SIZE = (256, 320)  # not square, so that a mixed-up height and width shows
LARGER = (320, 352)  # 6600 anchors on one map of stride 16: more than the 6000 that enter its top-k

THIN = [
    "MODEL.RESNETS.RES2_OUT_CHANNELS=64", "MODEL.RESNETS.STEM_OUT_CHANNELS=16", "MODEL.RESNETS.WIDTH_PER_GROUP=16",
    "MODEL.FPN.OUT_CHANNELS=64", "MODEL.ROI_BOX_HEAD.FC_DIM=128", "MODEL.ROI_BOX_HEAD.CONV_DIM=64",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=32",
]  # fmt: skip
CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES=7"
SEMANTIC = ["MODEL.SEM_SEG_HEAD.CONVS_DIM=32", "MODEL.SEM_SEG_HEAD.NUM_CLASSES=11"]
POINTS = [
    "MODEL.ROI_MASK_HEAD.NAME=PointRendMaskHead", "MODEL.ROI_MASK_HEAD.POOLER_TYPE=''", "MODEL.ROI_MASK_HEAD.FC_DIM=64",
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON=True", "MODEL.POINT_HEAD.NUM_CLASSES=7", "MODEL.POINT_HEAD.FC_DIM=32",
    "MODEL.POINT_HEAD.IN_FEATURES=['p2','p3']", "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS=196",
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS=3",
]  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A config of the zoo and how it is made thin; what the seeded scores are spread around; what is stored of it.

    `script`: detectron2's own script exports it too, at opset 11.
    """

    config: str
    overrides: tuple[str, ...] = ()
    build: Callable[[Member], Source] = field(default=lambda member: load(member))
    size: tuple[int, int] = SIZE
    background: float = 0.0
    spread: Mapping[str, float] = field(default_factory=dict)
    mean: Mapping[str, float] = field(default_factory=dict)
    script: bool = False

    def seed(self, source: Source, image: Any) -> seeding.Recipe:
        """Give the model its weights, calibrated on `image`; returns their recipe."""
        spread = {**seeding.SPREAD, **self.spread}
        return seeding.seeded(source.model, image, background=self.background, spread=spread, mean=self.mean)


def load(member: Member) -> Source:
    """The source of a member of a yaml config."""
    return configs.load(member.config, [*THIN, *member.overrides])


def _fcos(member: Member) -> Source:
    """FCOS exists as a LazyConfig only, whose widths stand in many places."""
    config = model_zoo.get_config(member.config)
    model = config.model
    model.backbone.bottom_up.stem.out_channels = 16
    model.backbone.bottom_up.stages = [
        LazyCall(ResNet.make_stage)(
            block_class=BottleneckBlock, num_blocks=blocks, stride_per_block=[stride] + [1] * (blocks - 1), in_channels=before,
            bottleneck_channels=inside, out_channels=after, stride_in_1x1=True, norm="FrozenBN",
        )
        for blocks, stride, before, inside, after in ((3, 1, 16, 16, 64), (4, 2, 64, 32, 128), (6, 2, 128, 64, 256),
                                                      (3, 2, 256, 128, 512))
    ]  # fmt: skip
    model.backbone.out_channels = model.backbone.top_block.in_channels = 64
    model.head.input_shape = [ShapeSpec(channels=64)] * 5
    model.head.conv_dims = [64] * 4
    model.num_classes = 7
    torch.manual_seed(0)
    return Source(config, instantiate(model).eval())


def _vitdet(member: Member) -> Source:
    """ViTDet is a LazyConfig too: two blocks, one of windows that its map fills only with padding, one of the whole map."""
    config = model_zoo.get_config(member.config)
    model, side = config.model, member.size[0]
    net = model.backbone.net
    net.img_size = model.backbone.square_pad = side
    net.embed_dim, net.num_heads, net.depth, net.window_block_indexes = 32, 4, 2, [0]
    model.backbone.out_channels = model.proposal_generator.head.in_channels = 32
    heads = model.roi_heads
    heads.num_classes = 7
    for head, edge in ((heads.box_head, 7), (heads.mask_head, 14)):
        head.input_shape = ShapeSpec(channels=32, height=edge, width=edge)
        head.conv_dims = [32] * len(head.conv_dims)
    heads.box_head.fc_dims, heads.box_predictor.input_shape = [64], ShapeSpec(channels=64)
    torch.manual_seed(0)
    built = instantiate(model).eval()
    seeding.spread_positions(built)
    return Source(config, built)


MEMBERS: dict[str, Member] = {
    "retinanet_thin": Member(
        "COCO-Detection/retinanet_R_50_FPN_3x.yaml", ("MODEL.RETINANET.NUM_CLASSES=7",),
        spread={"cls_score": 0.8, "bbox_pred": 0.3}, mean={"cls_score": -4.5}, script=True,
    ),
    "fcos_thin": Member(
        "COCO-Detection/fcos_R_50_FPN_1x.py", build=_fcos,
        spread={"cls_score": 1.2, "bbox_pred": 0.7}, mean={"cls_score": -3.0, "bbox_pred": 3.0}, script=True,
    ),
    "cascade_mask_rcnn_thin": Member(
        "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", (CLASSES,), background=2.0, script=True,
    ),
    "mask_rcnn_C4_thin": Member(
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml", (CLASSES,), size=LARGER, background=2.0, script=True,
    ),
    "mask_rcnn_DC5_thin": Member(
        "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x.yaml", (CLASSES, "MODEL.RESNETS.RES2_OUT_CHANNELS=32"), size=LARGER,
        background=2.0, script=True,
    ),
    "faster_rcnn_C4_thin": Member(
        "COCO-Detection/faster_rcnn_R_50_C4_3x.yaml", (CLASSES,), background=2.0, script=True,
    ),
    "mask_rcnn_vitdet_thin": Member(
        "common/models/mask_rcnn_vitdet.py", build=_vitdet, size=(256, 256), background=2.0,
    ),
    "pointrend_thin": Member(
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        (CLASSES, *POINTS, "TEST.DETECTIONS_PER_IMAGE=50"), background=2.0,
    ),
    "keypoint_rcnn_thin": Member(
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml", (f"MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS={[32] * 8}",), background=1.0,
    ),
    "panoptic_fpn_thin": Member(
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml", (CLASSES, *SEMANTIC), background=2.0,
    ),
    "semantic_fpn_thin": Member("Misc/semantic_R_50_FPN_1x.yaml", tuple(SEMANTIC), script=True),
    "rpn_FPN_thin": Member("COCO-Detection/rpn_R_50_FPN_1x.yaml", script=True),
    "rpn_C4_thin": Member("COCO-Detection/rpn_R_50_C4_1x.yaml", size=LARGER, script=True),
    "fast_rcnn_thin": Member("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", (CLASSES,), background=2.0),
    "mask_rcnn_dconv_thin": Member(
        "Misc/mask_rcnn_R_50_FPN_3x_dconv_c3-c5.yaml", (CLASSES,), background=2.0,
    ),
    "mask_rcnn_dconv_modulated_thin": Member(
        "Misc/mask_rcnn_R_50_FPN_3x_dconv_c3-c5.yaml", (CLASSES, "MODEL.RESNETS.DEFORM_MODULATED=True"), background=2.0,
    ),
    "cascade_gn_dconv_thin": Member(
        "Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv.yaml",
        (CLASSES, "MODEL.RESNETS.DEPTH=50", "MODEL.RESNETS.NUM_GROUPS=8", "MODEL.RESNETS.WIDTH_PER_GROUP=4"), background=2.0,
    ),
    "panoptic_dconv_cascade_gn_thin": Member(
        "Misc/panoptic_fpn_R_101_dconv_cascade_gn_3x.yaml",
        (CLASSES, *SEMANTIC, "MODEL.RESNETS.DEPTH=50", "MODEL.RESNETS.STEM_OUT_CHANNELS=32",
         "MODEL.RESNETS.WIDTH_PER_GROUP=32"),
        background=2.0,
    ),
}  # fmt: skip
