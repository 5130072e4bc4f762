"""From the compiled graph to what a user sees: keypoints and panoptic segments of golden members are PyTorch's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers.members import answers, picture

from golden_graphs.zoo import checking
from onnxgraft.detector import decoding
from onnxgraft.golden import catalog
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.postprocess import to_original
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import ImageResult


def found(name: str, folder: Path) -> ImageResult:
    image = picture(name)
    size = (image.shape[0], image.shape[1])
    home = catalog.folder(name)
    path, ctx, _ = checking.compile_form(catalog.resolve(name, folder), "plugin", size, folder, home / "meta.json")
    raw = from_outputs(checking.run(path, ctx, image, threads=2), ctx.io)
    placement = Placement(size, size, size)
    return ImageResult(None, image, placement, raw, to_original(raw, placement))


def test_keypoints_are_pytorchs(tmp_path: Path) -> None:
    result, stored = found("keypoint_rcnn_thin", tmp_path), answers("keypoint_rcnn_thin")
    reference = Detections.of(stored["boxes"], stored["scores"], stored["classes"])
    pairs = match(reference, result.found.detections).pairs
    assert len(pairs) == 100
    assert result.found.keypoints is not None
    apart = np.abs(stored["keypoints"][pairs[:, 0]] - result.found.keypoints[pairs[:, 1]])
    assert apart[..., :2].max() < 0.01
    assert apart[..., 2].max() < 1e-3


def test_keypoints_that_the_file_decodes_are_its_own(tmp_path: Path) -> None:
    """torchvision's, whose score of a keypoint is the logit there."""
    name = "keypoint_rcnn_torchvision_thin"
    result, stored = found(name, tmp_path), answers(name)
    maps, points = result.raw.heatmaps, result.found.keypoints
    pairs = match(Detections.of(stored["boxes"], stored["scores"], stored["classes"]), result.found.detections).pairs
    assert len(pairs) == len(result.raw) == 50
    assert points is not None
    assert maps is not None
    assert np.abs(stored["keypoints"][pairs[:, 0], :, :2] - points[pairs[:, 1], :, :2]).max() < 0.01
    logits = decoding.keypoints(maps, result.raw.boxes, 0)[0][..., 2]
    assert np.abs(stored["keypoints_scores"][pairs[:, 0]] - logits[pairs[:, 1]]).max() < 1e-3


def test_panoptic_segments_are_pytorchs(tmp_path: Path) -> None:
    result, stored = found("panoptic_fpn_thin", tmp_path), answers("panoptic_fpn_thin")
    assert result.panoptic is not None
    apart = (result.panoptic.ids != stored["panoptic"]).mean()
    assert apart < 2e-4  # single pixels at the edge of a mask: probabilities differ by some 1e-5
    wanted = json.loads(str(stored["segments"]))
    for ours, theirs in zip(result.panoptic.info, wanted, strict=True):
        for key in ("id", "isthing", "category_id", "instance_id"):
            assert ours.get(key) == theirs.get(key)
        assert abs(ours.get("score", 0) - theirs.get("score", 0)) < 1e-3
        assert abs(ours.get("area", 0) - theirs.get("area", 0)) <= 5
