"""PyTorch's answers of any family, in the form that the golden graphs store. Runs where detectron2 is installed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from onnxgraft.frontends.detectron2 import config_numbers
from onnxgraft.frontends.detectron2.configs import Source
from onnxgraft.frontends.detectron2.families import family_of, heatmaps_only
from onnxgraft.frontends.detectron2.tracing import deformable, to_tensor

NAMES = {
    "pred_boxes": "boxes",
    "proposal_boxes": "boxes",
    "pred_classes": "classes",
    "scores": "scores",
    "objectness_logits": "scores",
    "pred_masks": "masks",
    "pred_keypoint_heatmaps": "keypoint_heatmaps",
}


def answers(model: Any, image: np.ndarray, proposals: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What `model` says of a uint8 image [H,W,3], best first.

    boxes float32 [n,4] (x1,y1,x2,y2, pixels), scores [n] (objectness logits of an RPN), classes int64 [n]; where the
    family has them masks float32 [n,M,M], keypoint_heatmaps [n,K,S,S] and the keypoints [n,K,3] decoded from them,
    semantic_logits [1,C,H/4,W/4], panoptic uint8 [H,W] and segments (JSON).
    """
    family = family_of(model)
    inputs: dict[str, Any] = {"image": to_tensor(image)}
    if family.proposals:
        inputs["proposals"] = torch.as_tensor(proposals)
    with torch.no_grad(), deformable():
        with heatmaps_only():
            given = family.infer(model, [dict(inputs)])[0]
        found: dict[str, np.ndarray] = {}
        instances = given.get("instances", given.get("proposals"))
        for name, value in instances.get_fields().items() if instances is not None else ():
            found[NAMES[name]] = getattr(value, "tensor", value).numpy()
        if "masks" in found:
            found["masks"] = found["masks"][:, 0]
        if "sem_seg" in given:
            found["semantic_logits"] = given["sem_seg"].numpy()
        if "keypoint_heatmaps" in found:
            found["keypoints"] = model.inference([inputs], do_postprocess=False)[0].pred_keypoints.numpy()
        if family.name == "panoptic_fpn":
            panoptic, segments = model.inference([inputs])[0]["panoptic_seg"]
            found["panoptic"] = panoptic.numpy().astype(np.uint8)
            found["segments"] = np.array(json.dumps(segments))
    return found


def as_trained(source: Source, image: np.ndarray) -> np.ndarray:
    """A BGR picture, uint8 [H,W,3], in the channel order of the model."""
    return image if config_numbers.channel_order(source.config) == "BGR" else np.ascontiguousarray(image[:, :, ::-1])


def proposals(seed: int, size: tuple[int, int], count: int = 300) -> np.ndarray:
    """Seeded boxes float32 [R,4] on a canvas of `size` (height, width), of all scales, for models that need them."""
    height, width = size
    words = np.random.Philox(key=np.array([seed, 1], np.uint64)).random_raw(4 * count) >> np.uint64(40)
    x, y, w, h = (words.astype(np.float64) / 2**24).reshape(4, count)
    w, h = 12 * 20**w, 12 * 20**h
    boxes = np.stack([x * width - w / 2, y * height - h / 2, x * width + w / 2, y * height + h / 2], axis=1)
    boxes = boxes.clip(0, [width, height, width, height]).round(2)
    return boxes[(boxes[:, 2] > boxes[:, 0] + 1) & (boxes[:, 3] > boxes[:, 1] + 1)].astype(np.float32)
