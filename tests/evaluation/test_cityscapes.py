"""Cityscapes' own annotations become COCO instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxgraft.errors import InputError
from onnxgraft.evaluation import coco
from onnxgraft.evaluation.truth import from_cityscapes
from onnxgraft.runtime.detections import Detections


@pytest.fixture
def city(tmp_path: Path) -> tuple[Path, Path]:
    ids = np.zeros((40, 60), np.uint16)
    ids[5:25, 5:25] = 26001  # a car
    ids[5:35, 30:50] = 24000  # a person
    ids[30:40, 0:20] = 26  # cars that nobody told apart
    ids[0:5] = 7  # road, no instance
    for folder, name in ((tmp_path / "gt" / "a", "x_gtFine_instanceIds.png"), (tmp_path / "images" / "a", "x_leftImg8bit.png")):
        folder.mkdir(parents=True)
        Image.fromarray(ids if "gtFine" in name else np.zeros((40, 60, 3), np.uint8)).save(folder / name)
    return tmp_path / "images", tmp_path / "gt"


def test_instances_and_groups(city: tuple[Path, Path]) -> None:
    truth = from_cityscapes(*city)
    assert [truth.name(i) for i in truth.ids] == ["a/x_leftImg8bit.png"]
    assert truth.load(0).shape == (40, 60, 3)
    rows = {(a["category_id"], a["iscrowd"]): a for a in truth.annotations["annotations"]}
    assert set(rows) == {(26, 0), (24, 0), (26, 1)}
    assert rows[26, 0]["bbox"] == [5, 5, 20, 20]
    assert rows[24, 0]["area"] == 30 * 20
    boxes = [[5, 5, 25, 25], [30, 5, 50, 35], [2, 31, 18, 39]]  # the last one in the group: neither right nor wrong
    found = Detections.of(boxes, [0.9, 0.8, 0.7], [2, 0, 2], np.ones((3, 28, 28)))
    report = coco.evaluate(truth.annotations, {0: found})
    assert (report["box"]["AP"], report["mask"]["AP"]) == (pytest.approx(1), pytest.approx(1))
    assert report["mask"]["per_class"]["bus"] is None


def test_nothing_annotated(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"no NAME_gtFine_instanceIds\.png of a NAME_leftImg8bit\.png"):
        from_cityscapes(tmp_path / "images", tmp_path)
