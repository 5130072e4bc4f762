"""Calibration in shards: merged files, and the same through a local Ray."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from onnxgraft.errors import InputError, MissingExtraError
from onnxgraft.golden import scenes
from onnxgraft.options import Options
from onnxgraft.quantization import distributed
from onnxgraft.quantization.calibrate import calibrate
from onnxgraft.quantization.calibration import merge_files

SIZE = (256, 256)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), scenes.draw(scenes.CALIBRATION + seed, SIZE)[0])
    return folder


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "calibration.json"
    calibrate("mask_rcnn", path, images, options=Options(size=SIZE))
    return path.read_bytes()


def test_shards_merge_into_the_bytes_of_one_run(images: Path, whole: bytes, tmp_path: Path) -> None:
    parts = [tmp_path / f"{i}.json" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        calibrate("mask_rcnn", part, images, options=Options(size=SIZE), shard=f"{i}/2")
    merge_files(parts[::-1], tmp_path / "merged.json")
    assert (tmp_path / "merged.json").read_bytes() == whole


def test_local_ray_gives_the_bytes_of_one_run(images: Path, whole: bytes, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        distributed.calibrate("mask_rcnn", tmp_path / "ray.json", images, options=Options(size=SIZE), shards=2)
        with pytest.raises(InputError, match=r"shard 1/1: .*no such folder"):
            distributed.calibrate("mask_rcnn", tmp_path / "none.json", tmp_path / "absent", shards=1)
    finally:
        ray.shutdown()
    assert (tmp_path / "ray.json").read_bytes() == whole
    assert not (tmp_path / "none.json").exists()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onnxgraft\[ray\]'"):
        distributed.calibrate("mask_rcnn", tmp_path / "calibration.json")
