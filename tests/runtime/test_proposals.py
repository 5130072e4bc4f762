"""A Fast R-CNN classifies the boxes that it is given: through infer, verify and a batch."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.cli import assert_one_line_error, cli

import onnxgraft
from onnxgraft import InputError, Options
from onnxgraft.runtime import proposals
from onnxgraft.runtime.images import Placement
from onnxgraft.runtime.session import Session
from onnxgraft.tools.verify import verify


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fast") / "out"
    options = Options(target="onnxruntime", size=(256, 320), proposals=64, batch=2, checks=False)
    onnxgraft.compile("fast_rcnn_thin", folder, options)
    return folder


def test_infer_reads_them_from_the_json_of_an_rpn(build: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (128, 160, 3), np.uint8).repeat(2, 0).repeat(2, 1)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    boxes = proposals.grid(None, (256, 320), 40)
    (tmp_path / "rpn.json").write_text(json.dumps([{"file": "somewhere/photo.png", "boxes": boxes.tolist()}]))
    ran = cli("infer", build, tmp_path / "photo.png", "--proposals", tmp_path / "rpn.json", "--json", tmp_path / "found.json")
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text())
    session = Session(build, proposals=lambda file, size: boxes)
    (expected,) = session.run([image])
    assert len(row["boxes"]) == len(expected.found.detections) > 0
    np.testing.assert_allclose(row["boxes"], expected.found.detections.boxes, atol=0.01)
    assert_one_line_error(cli("infer", build, tmp_path / "photo.png"), "give them with --proposals FILE.json")


def test_rows_without_area_stand_for_none(build: Path) -> None:
    """The same boxes with empty ones between them give the same answers."""
    image = np.full((256, 320, 3), 90, np.uint8)
    image[64:160, 96:224] = 200
    boxes = proposals.grid(None, (256, 320), 30)
    sparse = np.zeros((60, 4), np.float32)
    sparse[::2] = boxes
    answers = []
    for given in (boxes, sparse):
        session = Session(build, proposals=lambda file, size, given=given: given)  # type: ignore[misc]
        (result,) = session.run([image])
        answers.append(result.raw)
    np.testing.assert_array_equal(answers[0].boxes, answers[1].boxes)
    np.testing.assert_array_equal(answers[0].scores, answers[1].scores)


def test_verify_gives_both_forms_the_same_boxes(build: Path) -> None:
    results, _ = verify(build)
    assert all(result.passed for result in results)
    assert results[0].report.reference > 0


def test_they_are_scaled_clipped_and_cut_to_the_rows() -> None:
    placement = Placement(original=(100, 200), resized=(50, 100), canvas=(64, 128))
    boxes = np.array([[10, 20, 30, 40], [0, 0, 0, 50], [150, 50, 400, 300], [2, 2, 4, 4]], np.float32)
    placed = proposals.place(boxes, placement, 2)
    np.testing.assert_array_equal(placed, [[5, 10, 15, 20], [75, 25, 100, 50]])


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        proposals.read(tmp_path / "absent.json")
    (tmp_path / "other.json").write_text('{"boxes": []}')
    with pytest.raises(InputError, match="no proposals: expected a list"):
        proposals.read(tmp_path / "other.json")
    (tmp_path / "fine.json").write_text('[{"file": "a.jpg", "boxes": []}]')
    with pytest.raises(InputError, match=r"has no proposals for 'b\.jpg'"):
        proposals.read(tmp_path / "fine.json")(Path("b.jpg"), (1, 1))
