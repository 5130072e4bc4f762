"""TensorRT for RTX builds an int8 engine of every family, without a GPU (of deformable ones: passes/test_deform_conv.py)."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from helpers.members import meta, picture
from helpers.target_models import needs_rtx

from onnxgraft.driver.compile import compile
from onnxgraft.golden import catalog
from onnxgraft.options import Options

MEMBERS = (
    "retinanet_thin", "fcos_thin", "rpn_FPN_thin", "fast_rcnn_thin", "faster_rcnn_C4_thin", "cascade_mask_rcnn_thin",
    "keypoint_rcnn_thin", "panoptic_fpn_thin", "semantic_fpn_thin", "retinanet_torchvision_thin", "pointrend_thin",
    "ssd_torchvision_thin",
)  # fmt: skip


@needs_rtx
@pytest.mark.parametrize("name", MEMBERS)
def test_an_int8_engine_is_built(name: str, tmp_path: Path) -> None:
    _, height, width = meta(name)["input"]["shape"]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "0.png"), picture(name))
    options = Options(
        precision="int8", size=(height, width), target="tensorrt-rtx", checks=False, proof=False, calib=pictures
    )
    build = compile(catalog.resolve(name, tmp_path / "cache"), tmp_path / "out", options)
    engine = build.manifest.engine
    assert (tmp_path / "out" / engine).stat().st_size == build.manifest.sizes[engine] > 100_000
    layers = build.manifest.engine_info
    assert "Int8" in str(layers), layers
