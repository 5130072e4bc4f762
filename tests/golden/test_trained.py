"""Trained detectors of other families than Mask R-CNN: stored packed, they give PyTorch's answers on scenes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from golden_graphs.zoo import checking
from onnxgraft.golden import catalog, references
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.read_outputs import from_outputs

NAMES = ("cascade_mask_rcnn", "retinanet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_unpacked_once(name: str, folder: Path) -> None:
    path = catalog.resolve(name, folder)
    stored = json.loads((catalog.folder(name) / "meta.json").read_text())["complete_sha256"]["model.onnx"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == stored
    written = path.stat().st_mtime_ns
    assert catalog.resolve(name, folder) == path
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize("name", NAMES)
def test_compiled_it_finds_what_pytorch_finds(name: str, folder: Path) -> None:
    number, scene, reference = next(references.references(name))
    home = catalog.folder(name)
    path, ctx, _ = checking.compile_form(catalog.resolve(name, folder), "plugin", scene.shape[:2], folder, home / "meta.json")
    report = match(reference, from_outputs(checking.run(path, ctx, scene, threads=2), ctx.io))
    assert number == 0
    assert report.exact, report
    assert (reference.scores > 0.5).sum() > 20


def test_what_is_trained_brings_scenes_to_be_judged_on() -> None:
    for name in ("mask_rcnn", "mask_rcnn@opset11", *NAMES):
        stored = catalog.evaluation(name)
        assert stored is not None
        assert len(list(stored.glob("scene_*.npz"))) == 24
    for name in ("retinanet_thin", "mask_rcnn_R_50_FPN_3x", "nothing"):
        assert catalog.evaluation(name) is None
