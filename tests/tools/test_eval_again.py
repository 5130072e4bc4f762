"""`eval` goes on where it was interrupted, and gives the same on a local Ray; panoptic quality of a stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.stand_ins import panoptic

from onnxgraft.errors import InputError
from onnxgraft.evaluation.table import table
from onnxgraft.runtime.predictor import Predictor
from onnxgraft.runtime.variants import Build, open_build
from onnxgraft.tools import answering
from onnxgraft.tools.evaluate import evaluate

SIZE = (83, 125)


@pytest.fixture
def annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for a Panoptic FPN, three pictures, and its own answer as their annotation."""
    monkeypatch.chdir(tmp_path)
    build = panoptic(tmp_path / "build")
    (tmp_path / "images").mkdir()
    (tmp_path / "pan").mkdir()
    picture = np.full((*SIZE, 3), 90, np.uint8)
    ids, info = Predictor(build, structures="numpy")(picture)["panoptic_seg"]
    things = sorted({s["category_id"] for s in info if s["isthing"]})
    number = 1 + max(things)
    stuff = 1 + max(s["category_id"] for s in info)
    categories = [{"id": i, "name": f"thing {i}", "isthing": 1} for i in range(number)]
    categories += [{"id": 100 + i, "name": f"stuff {i}", "isthing": 0} for i in range(1, stuff)]
    segments = [{"id": s["id"], "category_id": s["category_id"] + 100 * (not s["isthing"])} for s in info]
    annotations = []
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), picture)
        cv2.imwrite(str(tmp_path / "pan" / f"{i}.png"), np.stack([ids * 0, ids // 256, ids % 256], -1).astype(np.uint8))
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(3)]
    (tmp_path / "pan.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return build


def test_its_own_segments_have_quality_one(annotated: Path) -> None:
    report = evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"))
    figures = report["rows"]["build"]["panoptic"]
    assert figures["PQ"] == figures["SQ_things"] == figures["RQ_stuff"] == pytest.approx(1)
    heading, row, *_ = table(report)
    assert list(heading) == ["", "PQ", "SQ", "RQ", "PQ things", "PQ stuff"]
    assert list(row) == ["build", *["1.0000"] * 5]
    assert report["images"] == 3
    with pytest.raises(InputError, match="no such folder of panoptic pictures"):
        evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"), panoptic_pictures=Path("gone"))


def test_a_build_is_opened_once(annotated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(run: str, engine: str) -> Build:
        opened.append(run)
        return open_build(run, engine)

    monkeypatch.setattr(answering, "open_build", counted)
    assert evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"))["images"] == 3
    assert opened == [str(annotated)]


def test_interrupted_it_goes_on(annotated: Path) -> None:
    whole = evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"))
    assert not list(Path("build/.cache").glob("eval-*"))
    seen: list[str] = []

    def stop(done: int, total: int, name: str) -> None:
        seen.append(name)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"), progress=stop)
    (state,) = Path("build/.cache").glob("eval-*")
    kept = len(list(state.iterdir()))
    assert 2 <= kept <= 3  # the next is answered while one is written
    asked: list[str] = []
    again = evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"), progress=lambda d, t, n: asked.append(n))
    assert asked == ["2.png", ""][kept - 2 :]
    assert json.dumps(again) == json.dumps(whole)
    assert not state.exists()


def test_a_damaged_answer_is_asked_for_again(annotated: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"), progress=stop)
    (state,) = Path("build/.cache").glob("eval-*")
    (state / "0.npz").write_bytes(b"no answer")
    with pytest.raises(InputError, match=r"0\.npz: is damaged, and was removed: evaluate again"):
        evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"))
    assert evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"))["images"] == 3


def test_a_local_ray_gives_the_same(annotated: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra [ray])")
    whole = evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"))
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        spread = evaluate(str(annotated), Path("images"), panoptic=Path("pan.json"), shards=2)
    finally:
        ray.shutdown()
    assert json.dumps(spread) == json.dumps(whole)
