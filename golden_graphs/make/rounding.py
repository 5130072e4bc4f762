"""Whether rounding alone decides what PyTorch detects in a picture: such a picture tells nothing about a compiler.

Of two boxes whose scores differ by less than float32 resolves, suppression keeps either; a random network has such pairs more
often than a trained one. Runs where torch and detectron2 are installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from torchvision.ops import boxes

from golden_graphs.make import answers
from golden_graphs.zoo import checking
from onnxgraft.runtime.comparison import MatchReport


def against_double(model: Any, image: np.ndarray, truth: checking.Arrays) -> MatchReport:
    """PyTorch in float64 against its answers in float32 (`truth`); leaves `model` in float64. PointRend's masks are left out:
    its points are float32 in any model."""
    proposals = truth.get("proposals")
    heads = getattr(model, "roi_heads", None)
    points = getattr(heads, "mask_on", False) and getattr(heads, "mask_pooler", heads) is None
    without = mock.patch.object(heads, "mask_on", False) if points else nullcontext()
    with _double_suppression(), without:
        exact = answers.answers(model.double(), image, None if proposals is None else proposals.astype(np.float64))
    single = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in exact.items()}
    return checking.detections_match({k: v for k, v in truth.items() if k != "masks" or not points}, single)


@contextmanager
def _double_suppression() -> Iterator[None]:
    """detectron2 hands float32 boxes to the suppression, whose scores must be of the same type."""
    suppress = boxes.batched_nms

    def same_type(xyxy: torch.Tensor, scores: torch.Tensor, *rest: Any) -> torch.Tensor:
        return suppress(xyxy.to(scores.dtype), scores, *rest)

    with mock.patch.object(boxes, "batched_nms", same_type):
        yield
