"""mask-head."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.stages import Stages, run_unordered, same

from onnxgraft.detector.outputs import Role
from onnxgraft.errors import PassError
from onnxgraft.ir.evaluate import evaluate
from onnxgraft.passes import MaskHead
from onnxgraft.pipeline.manager import PassManager


def test_fires_and_changes_no_detection(stages: Stages) -> None:
    assert stages.report["mask-head"].changed
    assert same(stages.detections("box-nms"), stages.detections("mask-head")) is None


def test_masks_come_in_rows_of_the_detections(stages: Stages) -> None:
    graph, ctx = stages.after_pass("mask-head")
    assert graph.tensor(ctx.values.results[Role.MASKS]).shape == [1, 100, 28, 28]


def test_each_detection_gets_the_mask_of_its_class(stages: Stages) -> None:
    """Logits that say which class they are of: the mask picked tells the class."""
    graph, ctx = stages.after_pass("mask-head")
    head = ctx.spec().mask_head
    assert head is not None
    kinds = np.arange(100, dtype=np.int32).reshape(1, 100) % 5
    logits = np.broadcast_to(np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1), (100, 5, 28, 28)).copy()
    logits += np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1) / 100
    feeds = {head.logits_tensor: logits, ctx.values.results[Role.CLASSES]: kinds}
    (masks,) = evaluate(graph, [graph.tensor(ctx.values.results[Role.MASKS])], feeds)
    row = np.arange(100, dtype=np.float32) / 100
    wanted = 1 / (1 + np.exp(-(kinds[0] + row)))
    np.testing.assert_allclose(masks[0], np.broadcast_to(wanted[:, None, None], (100, 28, 28)), atol=1e-6)


def test_a_detector_without_masks_is_left_alone(stages: Stages) -> None:
    graph, ctx = stages.before_pass("mask-head")
    ctx.detector = dataclasses.replace(ctx.spec(), mask_head=None, mask_pooler=None)
    assert not run_unordered([MaskHead()], graph, ctx).records[0].changed


def test_it_needs_detections() -> None:
    with pytest.raises(PassError) as refused:
        PassManager([MaskHead()])
    assert str(refused.value) == "pass 'mask-head': requires 'detections'; no pass of this pipeline provides it"
