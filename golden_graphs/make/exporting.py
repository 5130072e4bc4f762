"""PyTorch's answers beside the graphs that the compiler's detectron2 frontend exports.

Runs where torch and detectron2 are installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import onnx
import torch

from onnxgraft.frontends.detectron2.tracing import anonymous, export, refuse_paths, skeleton, to_tensor

__all__ = ["anonymous", "detections", "export", "refuse_paths", "skeleton", "to_tensor", "write_meta"]


def detections(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """PyTorch's detections on a uint8 image [H,W,3], best first.

    Returns boxes float32 [n,4] (x1,y1,x2,y2, pixels), scores float32 [n], classes int64 [n] and,
    with a mask head, masks float32 [n,28,28] (probabilities).
    """
    with torch.no_grad():
        found = model.inference([{"image": to_tensor(image)}], do_postprocess=False)[0]
    result = {
        "boxes": found.pred_boxes.tensor.numpy(),
        "scores": found.scores.numpy(),
        "classes": found.pred_classes.numpy(),
    }
    if found.has("pred_masks"):
        result["masks"] = found.pred_masks[:, 0].numpy()
    return result


def write_meta(home: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` of a golden graph: `meta`, and the versions that made it."""
    versions = {
        "detectron2": detectron2.__version__,
        "torch": torch.__version__.partition("+")[0],
        "onnx": onnx.__version__,
    }
    text = json.dumps({**meta, "versions": versions}, indent=1) + "\n"
    refuse_paths(text.encode().replace(b".py", b""))
    (home / "meta.json").write_text(text)
