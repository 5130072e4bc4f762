"""Which detectron2 model this is, and what of it is traced: the part before Python post-processing.

Imported only where torch and detectron2 are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from detectron2.modeling import roi_heads
from detectron2.modeling.roi_heads import keypoint_head
from detectron2.structures import Boxes, ImageList, Instances

from onnxgraft.errors import InputError

Inputs = list[dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """One kind of model: how it is run for tracing (`infer(model, inputs)`), and whether proposals are an input.

    `infer` returns what detectron2's own exporter returns for the family, or the tensors that its Python
    post-processing starts from: keypoint heatmaps, semantic logits at a quarter of the image.
    """

    name: str
    infer: Callable[[Any, Inputs], Any]
    proposals: bool = False


def family_of(model: torch.nn.Module) -> Family:
    """The family of a detectron2 model. Raises InputError naming the meta-architecture that is not known."""
    kind = type(model).__name__
    if kind == "GeneralizedRCNN":
        if getattr(model, "proposal_generator", None) is None:
            return Family("fast_rcnn", _fast_rcnn, proposals=True)
        if getattr(model.roi_heads, "keypoint_on", False):
            return Family("keypoint_rcnn", _instances)
        if isinstance(model.roi_heads, roi_heads.CascadeROIHeads):
            return Family("cascade_rcnn", _instances)
        return Family("rcnn", _instances)
    known = {
        "PanopticFPN": Family("panoptic_fpn", _panoptic),
        "SemanticSegmentor": Family("semantic_fpn", _semantic),
        "ProposalNetwork": Family("rpn", _whole),
        "RetinaNet": Family("retinanet", _whole),
        "FCOS": Family("fcos", _whole),
    }
    if kind not in known:
        raise InputError(f"meta-architecture {type(model).__module__}.{kind} is not known: export knows GeneralizedRCNN, "
                         f"{', '.join(known)}")  # fmt: skip
    return known[kind]


def _whole(model: Any, inputs: Inputs) -> Any:
    return model(inputs)


def _instances(model: Any, inputs: Inputs) -> Any:
    return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]


def _fast_rcnn(model: Any, inputs: Inputs) -> Any:
    images = model.preprocess_image(inputs)
    proposals = Instances(images.image_sizes[0])
    proposals.proposal_boxes = Boxes(inputs[0]["proposals"])
    found, _ = model.roi_heads(images, model.backbone(images.tensor), [proposals], None)
    return [{"instances": found[0]}]


def _panoptic(model: Any, inputs: Inputs) -> Any:
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    logits = model.sem_seg_head.layers(features)
    proposals, _ = model.proposal_generator(images, features, None)
    found, _ = model.roi_heads(images, features, proposals, None)
    return [{"instances": found[0], "sem_seg": logits}]


def _semantic(model: Any, inputs: Inputs) -> Any:
    normal = [(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs]
    backbone = model.backbone
    images = ImageList.from_tensors(normal, backbone.size_divisibility, padding_constraints=backbone.padding_constraints)
    return [{"sem_seg": model.sem_seg_head.layers(backbone(images.tensor))}]


@contextmanager
def heatmaps_only() -> Iterator[None]:
    """Within, keypoint heads leave their heatmaps undecoded: decoding is a Python loop over detections."""

    def keep(logits: torch.Tensor, instances: list[Instances]) -> None:
        counts = [len(each) for each in instances]
        parts = [logits] if len(counts) == 1 else logits.split(counts, dim=0)
        for part, each in zip(parts, instances, strict=True):
            each.pred_keypoint_heatmaps = part

    with mock.patch.object(keypoint_head, "keypoint_rcnn_inference", keep):
        yield
