"""fix-content: a picture of the size that is given has the same answers whatever lies around it, without a second input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.cli import assert_one_line_error, cli
from helpers.padded import TRUE, detect

import onnxgraft
from onnxgraft import Options
from onnxgraft.errors import InputError, ProofError
from onnxgraft.golden import scenes
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import GraphIO, ImageIO, Manifest
from onnxgraft.options import CompileOptions
from onnxgraft.passes import FixContent
from onnxgraft.passes.default import parse_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.record import Compared, NotChecked, Unchanged
from onnxgraft.proof.models import Delivered
from onnxgraft.proof.prove import prove
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import Session

CANVAS = (320, 384)
HEIGHT, WIDTH = TRUE


@pytest.fixture(scope="module")
def build(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("content") / "out"
    options = Options(target="onnxruntime", size=CANVAS, content_size=TRUE, checks=False, proof=False)
    onnxgraft.compile("mask_rcnn", folder, options)
    return folder


def test_what_lies_around_does_not_matter(build: Path, golden_model: Path, tmp_path: Path) -> None:
    picture = scenes.draw(3_000_000_001, TRUE)[0]
    session = Session(build)
    assert (session.manifest.io.image_sizes, session.manifest.io.content) == (False, TRUE)
    (placed, placement) = session.place(picture)
    assert (placement.resized, placement.canvas) == (TRUE, CANVAS)
    feeds = session.feeds([(placed, placement)])
    outputs = session.run_feeds(feeds)
    alone = detect(golden_model, tmp_path, picture, (256, 320), False, "onnxruntime")
    report = match(alone, from_outputs(outputs, session.manifest.io))
    assert report.exact, report
    assert len(alone) > 5
    for around in (0.0, 255.0, np.random.default_rng(0).uniform(0, 255, (3, *CANVAS)).astype(np.float32)):
        (image,) = feeds.values()
        other = np.broadcast_to(np.float32(around), image.shape).copy()
        other[..., :HEIGHT, :WIDTH] = image[..., :HEIGHT, :WIDTH]
        assert not np.array_equal(other, image)
        given = session.run_feeds({"input_tensor": other})
        assert all(np.array_equal(given[name], array) for name, array in outputs.items())


def test_pictures_are_placed_on_that_part(build: Path) -> None:
    """A larger one is scaled down to it, not cut at it."""
    session = Session(build)
    for size in ((480, 640), (640, 480), (30, 900)):
        tensor, placement = session.place(np.full((*size, 3), 200, np.uint8))
        assert placement.resized[0] <= HEIGHT
        assert placement.resized[1] <= WIDTH
        assert (tensor == 200).all(axis=0).sum() == placement.resized[0] * placement.resized[1]


def test_numerics_are_checked_and_verified_on_that_part(tmp_path: Path, build: Path) -> None:
    """The check after each pass goes on with pictures of that part; `verify` runs the file at its size, where it has one."""
    options = Options(target="onnxruntime", size=(224, 320), content_size=(192, 288), check_numerics=True, proof=False)
    result = onnxgraft.compile("mask_rcnn", tmp_path / "out", options)
    checks = {record.name: record.check for record in result.report.records}
    assert isinstance(checks["fix-content"], NotChecked)
    assert isinstance(checks["lower-plugins"], (Compared, Unchanged))
    assert cli("verify", tmp_path / "out").returncode == 0
    assert_one_line_error(cli("verify", build), "the build is for pictures of 236x300, which detectron2 pads")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "told"), [((192, 288), (128, 288)), ((180, 300), None)]
)  # at the second the file does not run: detectron2 pads it
def test_the_proof_holds_it(tmp_path: Path, content: tuple[int, int], told: tuple[int, int] | None, golden_model: Path) -> None:
    """With pictures of the size that it was built for; of another one it is found out."""
    options = Options(target="onnxruntime", size=(224, 320), content_size=content, checks=False, proof=False)
    onnxgraft.compile("mask_rcnn", tmp_path / "out", options)
    manifest = Manifest.read(tmp_path / "out")
    io = replace(manifest.io, content=told or content)
    delivered = Delivered(tmp_path / "out" / manifest.runnable, io)
    steps = parse_pipeline(manifest.pipeline).passes
    if told:
        with pytest.raises(ProofError, match="picture 1"):
            prove(golden_model, steps, exact_padding=True, delivered=delivered)
        return
    proof = prove(golden_model, steps, exact_padding=True, delivered=delivered)
    assert (proof.missing, proof.ran) == (None, "model.onnx")
    assert proof.pictures == 3


def test_a_size_beyond_the_canvas_is_refused(conv_net: Path) -> None:
    for size in ((320, 400), (330, 384), (0, 384)):
        with pytest.raises(InputError, match=f"--content-size {size[0]}x{size[1]}: no part of the canvas of 320x384"):
            CompileOptions(size=CANVAS, content_size=size)
    ctx = Context(io=GraphIO(ImageIO("x", (1, 3, 64, 64)), image_sizes=True))
    with pytest.raises(InputError, match="fix-content: 96x64 is no part of the canvas of 64x64"):
        FixContent(height=96, width=64).run(Graph.load(conv_net), ctx)


def test_needs_the_image_sizes(conv_net: Path) -> None:
    with pytest.raises(InputError, match="fix-content: needs the image sizes as an input; build with --content-size"):
        FixContent(height=64, width=64).run(Graph.load(conv_net), Context())
