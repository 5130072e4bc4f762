"""Writes runtime_maps.npz: what detectron2 (torch) makes of small heatmaps, semantic logits and instances.

Needs torch and detectron2, which the tests do not: python tests/data/make_runtime_maps.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.structures.keypoints import heatmaps_to_keypoints
from torch.nn.functional import interpolate

FILE = Path(__file__).with_name("runtime_maps.npz")
CANVAS, RESIZED, ORIGINAL, STRIDE = (64, 96), (60, 90), (83, 125), 4
RESIZES = {"up": (11, 23), "down": (3, 5), "mixed": (4, 40)}  # of a map of 6 x 9
LARGE, SAMPLED = (91, 133), 29  # torch's kernel for pictures: more than 128 rows and columns together


def keypoints(random: np.random.Generator) -> dict[str, Any]:
    """Smooth heatmaps over a wide, a tall, a tiny, a thin and a whole-numbered box."""
    coarse = torch.from_numpy(random.standard_normal((5, 2, 5, 5)).astype(np.float32))
    maps = _short(interpolate(coarse, size=(14, 14), mode="bilinear") * 6)
    boxes = torch.tensor([[3.2, 4.7, 61.9, 22.1], [10.5, 2.25, 19.75, 60.5], [5.5, 5.5, 5.75, 5.9], [0.0, 8.1, 33.3, 8.2],
                          [8.0, 8.0, 22.0, 36.0]])  # fmt: skip
    found = heatmaps_to_keypoints(maps, boxes)
    return {"heatmaps": maps, "heatmap_boxes": boxes, "keypoints": found[:, :, [0, 1, 3]]}


def interpolation(random: np.random.Generator) -> dict[str, Any]:
    given = torch.from_numpy(random.standard_normal((2, 6, 9)).astype(np.float32)) * 5
    answers: dict[str, Any] = {"map": given, "bilinear_x4": _resized(given, scale_factor=4, mode="bilinear")}
    for name, size in RESIZES.items():
        for mode in ("bilinear", "bicubic"):
            answers[f"{mode}_{name}"] = _resized(given, size=size, mode=mode)
    large = _resized(given, size=LARGE, mode="bilinear")
    return answers | {"bilinear_large": large.reshape(-1)[::SAMPLED]}


def _short(values: torch.Tensor) -> torch.Tensor:
    """Values that fp16 holds too: half the bytes after compression."""
    return values.half().float()


def _resized(given: torch.Tensor, **how: Any) -> torch.Tensor:
    return interpolate(given[None], align_corners=False, **how)[0]


def panoptic(random: np.random.Generator) -> dict[str, Any]:
    """Overlapping instances over a semantic map, on a canvas that is larger than the image, of another size again."""
    coarse = torch.from_numpy(random.standard_normal((1, 5, 4, 6)).astype(np.float32)) * 3
    logits = _short(interpolate(coarse, size=(CANVAS[0] // STRIDE, CANVAS[1] // STRIDE), mode="bilinear"))
    boxes = torch.tensor([[2.0, 3, 40, 30], [10, 8, 44, 36], [50, 5, 88, 55], [52, 20, 70, 50], [4, 40, 20, 58],
                          [60, 2, 80, 9]])  # fmt: skip
    scores = torch.tensor([0.95, 0.9, 0.7, 0.8, 0.55, 0.45])
    classes = torch.tensor([0, 2, 1, 1, 0, 2])
    rough = torch.from_numpy(random.standard_normal((6, 1, 4, 4)).astype(np.float32))
    masks = torch.sigmoid(interpolate(rough, size=(8, 8), mode="bilinear") * 4 + 1)
    masks = _short(masks)
    full = interpolate(logits, scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]
    labels = sem_seg_postprocess(full, RESIZED, *ORIGINAL).argmax(0)
    answers = {"logits": logits[0], "boxes": boxes, "scores": scores, "classes": classes, "masks": masks[:, 0],
               "labels": labels.to(torch.uint8)}  # fmt: skip
    for name, settings in (("default", (0.5, 4096, 0.5)), ("fine", (0.3, 200, 0.4))):
        found = Instances(RESIZED, pred_boxes=Boxes(boxes.clone()), scores=scores, pred_classes=classes, pred_masks=masks)
        ids, info = combine_semantic_and_instance_outputs(detector_postprocess(found, *ORIGINAL), labels, *settings)
        answers |= {f"ids_{name}": ids.to(torch.uint8), f"info_{name}": json.dumps(info)}
    return answers


if __name__ == "__main__":
    random = np.random.default_rng(5)
    answers = {**keypoints(random), **interpolation(random), **panoptic(random)}
    np.savez_compressed(FILE, **{k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in answers.items()})
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")
