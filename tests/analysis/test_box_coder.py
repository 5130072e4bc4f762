"""A decoder is held against Box2BoxTransform on every level, however few or many boxes it has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxgraft.analysis.box_coder import verify_coder
from onnxgraft.detector.geometry import decode
from onnxgraft.detector.spec import BoxCoder
from onnxgraft.errors import Refusal

CODER = BoxCoder((1.0, 1.0, 1.0, 1.0), float(np.log(1000 / 16)))
FEW_AND_MANY = (1, 2, 3, 40_000, 40_001, 50_000)


def boxes(count: int) -> np.ndarray:
    corner = np.random.default_rng(0).uniform(0, 500, (count, 2))
    return np.concatenate([corner, corner + 32], 1).astype(np.float32)


def decoder(reference: np.ndarray, coder: BoxCoder = CODER, moved: float = 0.0) -> Callable[[np.ndarray], np.ndarray]:
    return lambda deltas: (decode(reference, deltas, coder) + moved).astype(np.float32)


@pytest.mark.parametrize("count", FEW_AND_MANY)
def test_box2box_transform_is_taken(count: int) -> None:
    reference = boxes(count)
    verify_coder(decoder(reference), reference, CODER, "topk")


@pytest.mark.parametrize("count", FEW_AND_MANY)
def test_moved_boxes_are_refused(count: int) -> None:
    reference = boxes(count)
    with pytest.raises(Refusal, match="differs from Box2BoxTransform by"):
        verify_coder(decoder(reference, moved=0.1), reference, CODER, "topk")


@pytest.mark.parametrize("count", FEW_AND_MANY)
def test_another_clamp_is_refused(count: int) -> None:
    reference, wider = boxes(count), BoxCoder(CODER.weights, CODER.scale_clamp + 1)
    with pytest.raises(Refusal, match=r"is clamped otherwise than at 4\.13517"):
        verify_coder(decoder(reference, wider), reference, CODER, "topk")
