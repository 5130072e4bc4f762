"""Mean intersection over union of semantic maps, as detectron2's SemSegEvaluator counts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxgraft.errors import InputError

IGNORED = 255  # detectron2's ignore label


class MeanIoU:
    """Counts pixels image by image; classes are 0..`classes` - 1, other labels of the truth are ignored."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.confusion = np.zeros((classes, classes), np.int64)  # [found, truth]

    def add(self, found: NDArray[np.int32], truth: NDArray[np.int64]) -> None:
        """Count an image.

        Args:
            found: semantic class of each pixel, int32 [H, W].
            truth: the same as annotated, int64 [H, W]; labels that are no class are ignored.

        Raises:
            InputError: the sizes differ.
        """
        if found.shape != truth.shape:
            raise InputError(f"the semantic truth is {truth.shape[0]}x{truth.shape[1]}, the picture {found.shape[0]}x"
                             f"{found.shape[1]}")  # fmt: skip
        known = (truth >= 0) & (truth < self.classes)
        pairs = found[known].astype(np.int64) * self.classes + truth[known]
        self.confusion += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def report(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """{"mIoU", "fwIoU", "mACC", "pACC", "per_class": {name: IoU}}; means are over the classes that the truth has.
        Figures lie in 0..1; None where no pixel is annotated."""
        right = self.confusion.diagonal().astype(np.float64)
        truth, found = self.confusion.sum(axis=0), self.confusion.sum(axis=1)
        known = truth > 0
        if not known.any():
            return {"mIoU": None, "fwIoU": None, "mACC": None, "pACC": None, "per_class": {}}
        iou = right[known] / (truth + found - right)[known]
        share = truth[known] / truth.sum()
        labels = [names[i] if i < len(names) else str(i) for i in np.nonzero(known)[0].tolist()]
        return {
            "mIoU": float(iou.mean()),
            "fwIoU": float((iou * share).sum()),
            "mACC": float((right[known] / truth[known]).mean()),
            "pACC": float(right.sum() / truth.sum()),
            "per_class": dict(zip(labels, iou.tolist(), strict=True)),
        }


def read_labels(path: Path) -> NDArray[np.int64]:
    """A picture of class indices, one channel: int64 [H, W]. Raises InputError."""
    try:
        with Image.open(path) as opened:
            labels = np.asarray(opened)
    except Exception as error:  # as in images.read_image: decoders raise many kinds
        raise InputError(f"{path}: not a readable picture of semantic classes ({error})") from error
    if labels.ndim != 2:
        raise InputError(f"{path}: a picture of semantic classes has one channel, this one has {labels.shape[-1]}")
    return labels.astype(np.int64)
