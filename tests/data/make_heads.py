"""Remake tests/data/heads: thin models of real detectron2 with heads and numbers that no golden member has.

    PYTHONPATH=DETECTRON2/projects/TridentNet:. python tests/data/make_heads.py [NAME ...]

DETECTRON2 is its source tree. Needs torch and detectron2. Each folder holds the structure of an export, the recipe of its
seeded weights, and what PyTorch says of two pictures: `pictures.blocks(SEED + i, SIZE)`.
"""

from __future__ import annotations

import argparse
import itertools
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tridentnet
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    Backbone,
    StandardROIHeads,
    build_model,
)
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import nn
from torch.nn.functional import linear, normalize, relu

from golden_graphs.make import answers, seeding
from golden_graphs.make.thin_members import compact
from onnxgraft.frontends.detectron2 import families, tracing
from onnxgraft.golden import pictures
from onnxgraft.golden.weights import PACKED

SEED, SIZE, PICTURES, OPSET = 20271, (192, 256), 2, 16
HOME = Path(__file__).parent / "heads"
WIDTH = 8


class Plain(Backbone):
    """Convolutions and ReLUs alone, as VGG's, to one map of stride 8: its last layers look like an RPN head's."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, WIDTH, WIDTH, WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH]
        steps = [nn.Sequential(nn.Conv2d(a, b, 3, 2 - i % 2, 1), nn.ReLU())
                 for i, (a, b) in enumerate(itertools.pairwise(widths))]  # fmt: skip
        self.body = nn.Sequential(*steps)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res4": self.body(x)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res4": ShapeSpec(channels=2 * WIDTH, stride=8)}


@BACKBONE_REGISTRY.register()
def plain(cfg: Any, shape: ShapeSpec) -> Backbone:
    return Plain()


class Cosine(nn.Linear):
    """The cosine of features and weights, scaled: few-shot detectors' classifier, without a bias."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 25 * linear(normalize(x), normalize(self.weight))


@ROI_HEADS_REGISTRY.register()
class CosineHeads(StandardROIHeads):
    """StandardROIHeads whose classes are told by cosines."""

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> Any:
        made = super()._init_box_head(cfg, input_shape)
        layer = made["box_predictor"].cls_score
        made["box_predictor"].cls_score = Cosine(layer.in_features, layer.out_features, bias=False)
        return made


@ROI_BOX_HEAD_REGISTRY.register()
class DoubleHead(nn.Module):
    """Two heads on the same pooled features, a fully connected one for classes and a convolutional one for boxes."""

    def __init__(self, cfg: Any, shape: ShapeSpec) -> None:
        super().__init__()
        self.width = cfg.MODEL.ROI_BOX_HEAD.FC_DIM
        self.fc = nn.Linear(shape.channels * shape.height * shape.width, self.width)
        self.conv = nn.Conv2d(shape.channels, self.width, 3, 1, 1)
        self.output_shape = ShapeSpec(channels=2 * self.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([relu(self.fc(x.flatten(1))), relu(self.conv(x)).mean([2, 3])], 1)


class DoublePredictor(FastRCNNOutputLayers):
    """Classes from the first half of the features, boxes from the second."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.cls_score.in_features
        return self.cls_score(x[:, :half]), self.bbox_pred(x[:, half:])


@ROI_HEADS_REGISTRY.register()
class DoubleHeads(StandardROIHeads):
    """StandardROIHeads with a double head."""

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> Any:
        made = super()._init_box_head(cfg, input_shape)
        made["box_predictor"] = DoublePredictor(cfg, ShapeSpec(channels=made["box_head"].width))
        return made


@dataclass(frozen=True)
class Head:
    """A config of the zoo, what is changed in it, and what its seeded scores are spread around."""

    config: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    background: float = 2.0
    mean: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)


MASK, BOX = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
THIN = {
    "MODEL.BACKBONE.NAME": "plain", "MODEL.RPN.IN_FEATURES": ["res4"], "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 96]], "MODEL.ROI_BOX_HEAD.FC_DIM": 32, "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1, "MODEL.RPN.PRE_NMS_TOPK_TEST": 300,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 100, "TEST.DETECTIONS_PER_IMAGE": 30, "MODEL.DEVICE": "cpu",
}  # fmt: skip
HEADS = {
    "cosine": Head(MASK, {
        "MODEL.ROI_HEADS.NAME": "CosineHeads", "MODEL.ROI_HEADS.NUM_CLASSES": 20, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 7,
    }),
    "double_agnostic": Head(MASK, {
        "MODEL.ROI_HEADS.NAME": "DoubleHeads", "MODEL.ROI_BOX_HEAD.NAME": "DoubleHead", "MODEL.ROI_HEADS.NUM_CLASSES": 7,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 28, "TEST.DETECTIONS_PER_IMAGE": 5,
    }),
    "federated_1203": Head(BOX, {
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True, "MODEL.ROI_HEADS.NUM_CLASSES": 1203, "MODEL.RPN.POST_NMS_TOPK_TEST": 50,
        "TEST.DETECTIONS_PER_IMAGE": 1000, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    }, background=0.0, mean={"cls_score": -5.0}),
    "one_of_4000": Head(BOX, {
        "MODEL.ROI_HEADS.NUM_CLASSES": 1, "TEST.DETECTIONS_PER_IMAGE": 1, "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 4000, "MODEL.RPN.NMS_THRESH": 0.99,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[24, 32, 48, 64, 96]],
    }),
    "trident_fast": Head("", {
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16, "MODEL.RESNETS.STEM_OUT_CHANNELS": 8, "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
        "MODEL.ROI_HEADS.NUM_CLASSES": 7,
    }),
}  # fmt: skip


def build(head: Head) -> nn.Module:
    cfg = get_cfg()
    settings = {**THIN, **head.overrides}
    if head.config:
        cfg.merge_from_file(model_zoo.get_config_file(head.config))
    else:
        tridentnet.add_tridentnet_config(cfg)
        cfg.merge_from_file(str(Path(tridentnet.__file__).parents[1] / "configs" / "tridentnet_fast_R_50_C4_1x.yaml"))
        settings = {k: v for k, v in settings.items() if not k.endswith(("BACKBONE.NAME", "IN_FEATURES"))}
    cfg.merge_from_list([part for pair in settings.items() for part in pair])
    torch.manual_seed(0)
    return build_model(cfg).eval()


def remake(home: Path, head: Head) -> None:
    """Write the folder of one model: structure, recipe of the weights, answers for two pictures."""
    home.mkdir(parents=True, exist_ok=True)
    model = build(head)
    seen = [pictures.blocks(SEED + i, SIZE) for i in range(PICTURES)]
    spread = {**seeding.SPREAD, "cls_score": 2.5, **head.spread}
    recipe = seeding.seeded(model, seen[0], background=head.background, spread=spread, mean=head.mean)
    stripped = seeding.Stripped(model, recipe)
    exported = tracing.export(model, seen[0], OPSET, None, families.family_of(model))
    (home / f"model.onnx{PACKED}").write_bytes(lzma.compress(stripped.strip("model.onnx", exported), preset=9))
    stripped.write(home / "weights.json")
    found = [compact(answers.answers(model, image)) for image in seen]
    np.savez_compressed(home / "answers.npz", **{f"{i}.{k}": v for i, one in enumerate(found) for k, v in one.items()})
    print(home.name, {k: v.shape for k, v in found[0].items()}, [round(float(s), 4) for s in found[0]["scores"][[0, -1]]],
          sum(f.stat().st_size for f in home.iterdir()))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Remake tests/data/heads.")
    parser.add_argument("names", nargs="*", help="models to remake [all]")
    for name in parser.parse_args().names or HEADS:
        remake(HOME / name, HEADS[name])


if __name__ == "__main__":
    main()
