"""What people build with detectron2 beside its zoo: configs of its projects, and heads that a config only has to ask for.

A row is a config, found in detectron2's model zoo or in its source, and settings. Sizes that a transformer has in its weights
are set to those of the sweep's pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.frontends.detectron2 import configs

_MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
_POINTS = "projects/PointRend/configs/InstanceSegmentation/pointrend_rcnn_R_50_FPN_1x_coco.yaml"
_VITDET, _MVIT = "projects/ViTDet/configs/COCO", "projects/MViTv2/configs"
_SMALL_BRANCHES = {"attn.proj": 0.05, "mlp.fc2": 0.05}  # through others rounding grows until it decides, three stages long
_SIZES = ("model.backbone.square_pad={side}",)


@dataclass(frozen=True)
class Beyond:
    """A config and what is set in it; `{side}` in a setting is the side of the sweep's square pictures.

    Attributes:
        means, spreads: of layers' outputs where seeded weights need others than the zoo's, by the ends of the layers' names.
    """

    config: str
    settings: tuple[str, ...] = ()
    means: Mapping[str, float] | None = None
    spreads: Mapping[str, float] | None = None


def _schedules(model: str, *lengths: int) -> dict[str, Beyond]:
    return {f"new_baselines/{model}_{n}ep_LSJ.py": Beyond(f"new_baselines/{model}_{n}ep_LSJ.py") for n in lengths}


ROWS: dict[str, Beyond] = {
    **_schedules("mask_rcnn_R_50_FPN", 100, 200, 400, 50),
    **_schedules("mask_rcnn_R_101_FPN", 100, 200, 400),
    **_schedules("mask_rcnn_regnetx_4gf_dds_FPN", 100, 200, 400),
    **_schedules("mask_rcnn_regnety_4gf_dds_FPN", 100, 200, 400),
    f"{_VITDET}/mask_rcnn_vitdet_b_100ep.py": Beyond(
        f"{_VITDET}/mask_rcnn_vitdet_b_100ep.py", (*_SIZES, "model.backbone.net.img_size={side}"),
    ),
    f"{_VITDET}/cascade_mask_rcnn_vitdet_b_100ep.py": Beyond(
        f"{_VITDET}/cascade_mask_rcnn_vitdet_b_100ep.py", (*_SIZES, "model.backbone.net.img_size={side}"),
        spreads=_SMALL_BRANCHES,
    ),
    f"{_VITDET}/cascade_mask_rcnn_swin_b_in21k_50ep.py": Beyond(f"{_VITDET}/cascade_mask_rcnn_swin_b_in21k_50ep.py", _SIZES),
    f"{_VITDET}/cascade_mask_rcnn_mvitv2_b_in21k_100ep.py": Beyond(
        f"{_VITDET}/cascade_mask_rcnn_mvitv2_b_in21k_100ep.py", _SIZES,
    ),
    f"{_MVIT}/mask_rcnn_mvitv2_t_3x.py": Beyond(f"{_MVIT}/mask_rcnn_mvitv2_t_3x.py"),
    _POINTS: Beyond(_POINTS),
    "Mask R-CNN, boxes pooled from p4": Beyond(_MASK, ("MODEL.ROI_HEADS.IN_FEATURES=['p4']",)),
    "Mask R-CNN, boxes pooled from p2, p3": Beyond(_MASK, ("MODEL.ROI_HEADS.IN_FEATURES=['p2','p3']",)),
    "Mask R-CNN, boxes pooled from p3 to p5": Beyond(_MASK, ("MODEL.ROI_HEADS.IN_FEATURES=['p3','p4','p5']",)),
    "Mask R-CNN, boxes pooled from p2 to p6": Beyond(_MASK, ("MODEL.ROI_HEADS.IN_FEATURES=['p2','p3','p4','p5','p6']",)),
    "Mask R-CNN, sigmoid classifier": Beyond(
        _MASK, ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE=True",), {"cls_score": -3.4}, {"cls_score": 0.4},  # none rounds to 1
    ),
    "Mask R-CNN, class-agnostic boxes and masks": Beyond(
        _MASK, ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG=True", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK=True"),
    ),
    "Mask R-CNN, one class": Beyond(_MASK, ("MODEL.ROI_HEADS.NUM_CLASSES=1",)),
    "Mask R-CNN, 1 detection": Beyond(
        _MASK, ("TEST.DETECTIONS_PER_IMAGE=1",), spreads={"cls_score": 1.0},  # others have several best scores that round to 1
    ),
    "Mask R-CNN, 1000 detections": Beyond(_MASK, ("TEST.DETECTIONS_PER_IMAGE=1000",)),
    "Mask R-CNN, masks of 14x14": Beyond(_MASK, ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION=7",)),
    "Mask R-CNN, masks of 56x56": Beyond(_MASK, ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION=28",)),
    "Mask R-CNN, 50 proposals": Beyond(_MASK, ("MODEL.RPN.POST_NMS_TOPK_TEST=50",)),
    "Mask R-CNN, 4000 proposals": Beyond(_MASK, ("MODEL.RPN.POST_NMS_TOPK_TEST=4000", "MODEL.RPN.PRE_NMS_TOPK_TEST=4000")),
}  # fmt: skip


def load(name: str, source: Path, size: tuple[int, int]) -> configs.Source:
    """The model of a row.

    Args:
        name: of ROWS, or a config of the model zoo.
        source: detectron2's source tree, for configs of its projects.
        size: height and width of the pictures.
    """
    row = ROWS.get(name, Beyond(name))
    config = str(source / row.config) if row.config.startswith("projects/") else row.config
    if "{side}" in "".join(row.settings) and size[0] != size[1]:
        raise InputError(f"{name} takes square pictures, not {size[0]}x{size[1]}")
    return configs.load(config, [setting.format(side=size[0]) for setting in row.settings])


def key(name: str) -> str:
    """Equal for rows that describe the same model: new_baselines differ in the length of training."""
    stem, _, schedule = name.rpartition("_FPN_")
    return stem if name.startswith("new_baselines/") and schedule else name
