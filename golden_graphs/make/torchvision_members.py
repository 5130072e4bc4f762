"""Remake the thin members of torchvision's detectors, with PyTorch's answers. Needs torch, torchvision and detectron2.

    python -m golden_graphs.make.torchvision_members [NAME ...]

They are exported as users do it: the whole model, whose resize changes nothing at its own size; Mask R-CNN without
the post-processing that pastes masks, and once more with it. Their answers have classes counted from 0, as a build gives them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torchvision.models.detection import FCOS, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from golden_graphs.make import exporting, seeding
from golden_graphs.make.thin_members import SEED, compact
from onnxgraft.frontends.detectron2.tracing import anonymous, quiet
from onnxgraft.golden import catalog, pictures
from onnxgraft.golden.weights import PACKED

SIZE = (256, 320)
WIDTH, FPN, FC, CLASSES, KEYPOINTS = 8, 16, 32, 7, 5
OPSET = 17
BACKGROUND = 2.0
SPREAD = {"rpn.head.cls_logits": 2.0, "rpn.head.bbox_pred": 0.3, "bbox_pred": 0.7, "cls_score": 2.5, "mask_fcn_logits": 2.0,
          "bbox_reg": 0.4, "cls_logits": 0.6}  # fmt: skip
MEAN = {"classification_head.cls_logits": -3.0}
SSD_BACKGROUND = 5.0
SSD_SPREAD = {f"{head}_head.module_list.{level}": spread for head, spread in (("classification", 1.5), ("regression", 1.0))
              for level in range(6)}  # fmt: skip


def _body() -> nn.Module:
    def step(inside: int, outside: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.ReLU())

    return nn.Sequential(OrderedDict(
        stem=step(3, WIDTH, 2), res2=step(WIDTH, WIDTH, 2), res3=step(WIDTH, WIDTH, 2), res4=step(WIDTH, 2 * WIDTH, 2),
        res5=step(2 * WIDTH, 2 * WIDTH, 2),
    ))  # fmt: skip


def mask_rcnn() -> nn.Module:
    """Mask R-CNN on a feature pyramid of four maps and the pooled one, few channels, the canvas as its resize's sizes."""
    layers = {name: str(level) for level, name in enumerate(("res2", "res3", "res4", "res5"))}
    backbone = BackboneWithFPN(_body(), layers, [WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH], FPN)
    made = MaskRCNN(
        backbone, num_classes=None, min_size=SIZE[0], max_size=SIZE[1], box_head=TwoMLPHead(FPN * 49, FC),
        box_predictor=FastRCNNPredictor(FC, CLASSES + 1), mask_head=MaskRCNNHeads(FPN, (FPN,), 1),
        mask_predictor=MaskRCNNPredictor(FPN, FPN, CLASSES + 1), rpn_pre_nms_top_n_test=400, rpn_post_nms_top_n_test=300,
    )  # fmt: skip
    made.transform.postprocess = lambda detections, *sizes: detections
    return made.eval()


def keypoint_rcnn() -> nn.Module:
    """Keypoint R-CNN, as thin, with few keypoints; its post-processing and its decoding of keypoints stay."""
    layers = {name: str(level) for level, name in enumerate(("res2", "res3", "res4", "res5"))}
    backbone = BackboneWithFPN(_body(), layers, [WIDTH, WIDTH, 2 * WIDTH, 2 * WIDTH], FPN)
    return KeypointRCNN(
        backbone, num_classes=None, min_size=SIZE[0], max_size=SIZE[1], box_head=TwoMLPHead(FPN * 49, FC),
        box_predictor=FastRCNNPredictor(FC, 2), keypoint_head=KeypointRCNNHeads(FPN, (FPN,)),
        keypoint_predictor=KeypointRCNNPredictor(FPN, KEYPOINTS), rpn_pre_nms_top_n_test=400, rpn_post_nms_top_n_test=200,
        box_detections_per_img=50,
    ).eval()  # fmt: skip


def retinanet() -> nn.Module:
    """RetinaNet, as thin; its post-processing stays."""
    layers = {name: str(level) for level, name in enumerate(("res3", "res4", "res5"))}
    backbone = BackboneWithFPN(_body(), layers, [WIDTH, 2 * WIDTH, 2 * WIDTH], FPN, extra_blocks=LastLevelP6P7(FPN, FPN))
    return RetinaNet(backbone, CLASSES, min_size=SIZE[0], max_size=SIZE[1], topk_candidates=300, detections_per_img=100).eval()


def fcos() -> nn.Module:
    """FCOS, as thin as its GroupNorm of 32 groups lets it be; its post-processing stays."""
    layers = {name: str(level) for level, name in enumerate(("res3", "res4", "res5"))}
    backbone = BackboneWithFPN(_body(), layers, [WIDTH, 2 * WIDTH, 2 * WIDTH], 32, extra_blocks=LastLevelP6P7(32, 32))
    return FCOS(backbone, CLASSES, min_size=SIZE[0], max_size=SIZE[1], topk_candidates=300).eval()


class _Steps(nn.Module):
    """The maps of a body from its third step on, and of further steps down to a single location."""

    def __init__(self) -> None:
        super().__init__()
        further = (nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, 2, 1), nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, 2, 1),
                   nn.Conv2d(2 * WIDTH, 2 * WIDTH, (2, 3)))  # fmt: skip
        self.steps = nn.ModuleList([*_body(), *(nn.Sequential(conv, nn.ReLU()) for conv in further)])
        self.out_channels = [WIDTH, *[2 * WIDTH] * 5]

    def forward(self, image: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        maps = []
        for step in self.steps:
            image = step(image)
            maps.append(image)
        return OrderedDict((str(level), taken) for level, taken in enumerate(maps[2:]))


def ssd() -> nn.Module:
    """SSD on six maps, the last ones of 2x3 locations, whose steps are fractions of a pixel, and of one; as thin."""
    boxes = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]])
    return SSD(
        _Steps(), boxes, (SIZE[1], SIZE[0]), CLASSES + 1, image_mean=[0.48235, 0.45882, 0.40784], image_std=[1 / 255] * 3,
        topk_candidates=100, detections_per_img=100,
    ).eval()  # fmt: skip


@dataclass(frozen=True)
class Member:
    """How a member is built; its family; the number that its labels begin with; means and spreads of its layers' outputs beyond
    MEAN and SPREAD."""

    build: Callable[[], nn.Module]
    family: str
    first: int
    mean: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)


MEMBERS = {
    "mask_rcnn_torchvision_thin": Member(mask_rcnn, "rcnn", 1),
    "keypoint_rcnn_torchvision_thin": Member(keypoint_rcnn, "keypoint_rcnn", 1),
    "retinanet_torchvision_thin": Member(retinanet, "retinanet", 0),
    "fcos_torchvision_thin": Member(fcos, "fcos", 0, {"bbox_reg": 2.0}),
    "ssd_torchvision_thin": Member(ssd, "ssd", 1, spread=SSD_SPREAD),
}


def seed(
    made: nn.Module, image: torch.Tensor, mean: Mapping[str, float], spread: Mapping[str, float] | None = None
) -> seeding.Recipe:
    """Give the model its weights, calibrated on `image` float32 [3, H, W] of 0..1; returns their recipe."""
    recipe: seeding.Recipe = {}
    layers = [(name, layer) for name, layer in made.named_modules() if isinstance(layer, seeding.LAYERS)]
    hooks = []
    for stream, (name, layer) in enumerate(layers):
        wanted = seeding.by_ending({**SPREAD, **(spread or {})}, name, 1.0), seeding.by_ending({**MEAN, **mean}, name, 0.0), 0.0
        hooks.append(layer.register_forward_pre_hook(seeding.calibration(name, stream, recipe, *wanted)))
    with torch.no_grad():
        made([image])
    for hook in hooks:
        hook.remove()
    if hasattr(made, "roi_heads"):
        made.roi_heads.box_predictor.cls_score.bias.data[0] += BACKGROUND  # so that most proposals are no detections
    if isinstance(made, SSD):
        for conv in made.head.classification_head.module_list:
            conv.bias.data[:: made.head.classification_head.num_columns] += SSD_BACKGROUND
    return recipe


def export(made: nn.Module, image: torch.Tensor) -> onnx.ModelProto:
    """The whole model as torch.onnx writes it, without source lines."""
    buffer = io.BytesIO()
    with torch.no_grad(), quiet():
        torch.onnx.export(made, ([image],), buffer, opset_version=OPSET, dynamo=False)
    return anonymous(onnx.load_from_string(buffer.getvalue()))


def remake(home: Path, member: Member) -> None:
    """Write the folder of a member: structure, recipe of the weights, answers, description."""
    home.mkdir(parents=True, exist_ok=True)
    picture = pictures.blocks(SEED, SIZE)
    image = torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1))).float() / 255
    made = member.build()
    stripped = seeding.Stripped(made, seed(made, image, member.mean, member.spread))
    with torch.no_grad():
        said = {name: value.numpy() for name, value in made([image])[0].items()}
    exports = {"model.onnx": export(made, image)}
    if "postprocess" in vars(made.transform):  # it was left out
        del made.transform.postprocess
        exports["model_pasted.onnx"] = export(made, image)
    for file, exported in exports.items():
        (home / f"{file}{PACKED}").write_bytes(lzma.compress(stripped.strip(file, exported), preset=9))
    stripped.write(home / "weights.json")
    with tempfile.TemporaryDirectory() as folder:
        digests = {file: hashlib.sha256(catalog.materialise(home, file, Path(folder)).read_bytes()).hexdigest()
                   for file in exports}  # fmt: skip
    found = {"boxes": said["boxes"], "scores": said["scores"], "classes": said["labels"] - member.first}
    found |= {"masks": said["masks"][:, 0]} if "masks" in said else {}
    found |= {name: said[name] for name in ("keypoints", "keypoints_scores") if name in said}
    np.savez_compressed(home / "answers.npz", **compact(found))
    exporting.write_meta(home, {
        "family": member.family,
        "from": f"torchvision.models.detection.{type(made).__name__}",
        "input": {"shape": [3, *SIZE], "dtype": "float32", "range": [0, 1], "layout": "CHW"},
        "opset": dict.fromkeys(exports, OPSET),
        "class_names": None,
        "config": {"channel_order": "RGB", "shortest_edge": SIZE[0], "longest_edge": SIZE[1]},
        "picture": {"seed": SEED, "sha256": hashlib.sha256(picture.tobytes()).hexdigest()},
        "detections": len(found["boxes"]),
        "complete_sha256": digests,
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Remake the thin members of torchvision's detectors.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="folder of the golden graphs")
    parser.add_argument("names", nargs="*", help="members to remake [all]")
    args = parser.parse_args()
    for name in args.names or MEMBERS:
        remake(args.output / name, MEMBERS[name])


if __name__ == "__main__":
    main()
