"""Several canvases and batches in one build: what is built, which one answers, and that the answers are the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.cli import assert_one_line_error, cli
from PIL import Image

from onnxgraft import InputError, Options, Predictor, compile
from onnxgraft.cli.options import _several
from onnxgraft.golden import scenes
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.session import Session
from onnxgraft.runtime.variants import Variants, open_build
from onnxgraft.tools.sizes import propose

EDGES = (96, 192)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = Options(size=(192, 192), variants=("96x192", "192x96:2"), exact_padding=True, target="onnxruntime", proof=False,
                      checks=False)  # fmt: skip
    return compile("mask_rcnn", tmp_path_factory.mktemp("variants") / "out", options).folder


def test_the_smallest_canvas_that_holds_a_picture_answers_alike(build: Path) -> None:
    opened = open_build(build, edges=EDGES)
    assert isinstance(opened, Variants)
    large = Session(build, rule=opened.sessions[0].feeder.rule)
    sizes = [(300, 500), (500, 300), (320, 320), (510, 290), (200, 200)]
    pictures = [scenes.draw(scenes.GOLDEN + i, size)[0] for i, size in enumerate(sizes)]
    results = list(opened.run(pictures))
    assert [r.placement.canvas for r in results] == [(96, 192), (192, 96), (96, 192), (192, 96), (96, 192)]
    for picture, ours, whole in zip(pictures, results, large.run(pictures), strict=True):
        assert np.array_equal(ours.image, picture)
        assert whole.placement.canvas == (192, 192)
        report = match(whole.raw, ours.raw)
        assert report.exact, str(report)
    assert sum(len(r.found) for r in results) > 20


def test_predictor_and_infer_take_it(build: Path, tmp_path: Path) -> None:
    picture = scenes.draw(scenes.GOLDEN, (300, 500))[0]
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    with Predictor(build, structures="numpy") as predictor:
        first, second = predictor([picture, tmp_path / "p.png"])
    np.testing.assert_array_equal(first["instances"].scores, second["instances"].scores)
    done = cli("infer", build, tmp_path / "p.png", "--shortest-edge", 96, "--longest-edge", 192)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_asked_for() -> None:
    assert _several({"size": "96x192,192x96", "batch": "1,8"}) == {
        "size": "96x192", "batch": "1", "variants": ["96x192:8", "192x96:1", "192x96:8"],
    }  # fmt: skip
    assert _several({"size": "96x192"}) == {}
    assert _several({"batch": "1,8"}) == {"batch": "1", "variants": ["1344x1344:8"]}
    with pytest.raises(InputError, match="--variant: 'big' is not HEIGHTxWIDTH"):
        compile("mask_rcnn", "never", Options(variants=("big",), size=(96, 96), target="onnxruntime", proof=False))
    assert not Path("never").exists()


def test_a_variant_that_is_gone(build: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    manifest = (build / "manifest.json").read_text()
    (tmp_path / "out" / "manifest.json").write_text(manifest)
    assert_one_line_error(cli("infer", tmp_path / "out", "p.png"), "a variant of the build is not there; build it again")
    (tmp_path / "out" / "manifest.json").write_text(manifest.replace('"96x192_batch1"', '"../../etc"'))
    assert_one_line_error(cli("infer", tmp_path / "out", "p.png"), "lies outside")


def test_sizes(tmp_path: Path) -> None:
    for i, size in enumerate([(640, 480)] * 3 + [(480, 640)] * 6 + [(500, 500)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    one, two, three = propose([tmp_path])[0]
    assert (one.canvases, one.work) == (((1088, 1088),), 1)
    assert three.canvases == ((800, 800), (800, 1088), (1088, 800))
    assert three.shares == (0.1, 0.3, 0.6)
    assert three.work == pytest.approx((0.1 * 800 * 800 + 0.9 * 800 * 1088) / 1088**2)
    assert one.work > two.work > three.work
    _, count, unread = propose([tmp_path])
    assert (count, len(unread)) == (10, 1)
    shown = cli("sizes", tmp_path)
    assert "onnxgraft build MODEL --size 800x800,800x1088,1088x800 --exact-padding" in shown.stdout
    assert "10 pictures" in shown.stdout
