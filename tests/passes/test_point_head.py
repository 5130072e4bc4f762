"""point-head: the masks of PointRend, refined for each picture from its own maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.members import answers, meta, picture
from helpers.padded import TRUE, detect

from golden_graphs.zoo import checking
from onnxgraft.detector import points
from onnxgraft.golden import catalog, pictures
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import Preprocess
from onnxgraft.options import CompileOptions, Size
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.targets import OrtRunner

NAME, SIZE = "pointrend_thin", (256, 320)
APART = 1.5 / 255  # answers are stored in 255ths
POINTS_THAT_ROUNDING_CHOOSES = 2e-3  # of all cells


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog.resolve(NAME, tmp_path_factory.mktemp("points"))


@pytest.mark.parametrize("form", checking.FORMS)
def test_masks_are_pytorchs(model: Path, tmp_path: Path, form: str) -> None:
    """But for single cells, of which rounding decides whether they are among the least certain."""
    stored = answers(NAME)
    path, ctx, _ = checking.compile_form(model, form, SIZE, tmp_path)
    found = checking.run(path, ctx, picture(NAME))
    masks = found["detection_masks"][0, : len(stored["masks"])]
    apart = np.abs(masks - stored["masks"] / np.float32(255)) > APART
    assert stored["masks"].std() > 40
    assert apart.mean() < POINTS_THAT_ROUNDING_CHOOSES


@pytest.mark.parametrize("form", checking.FORMS)
def test_each_picture_of_a_batch_is_sampled_from_its_own_maps(model: Path, tmp_path: Path, form: str) -> None:
    images = [picture(NAME), pictures.blocks(meta(NAME)["picture"]["seed"] + 1, SIZE)]
    alone = []
    path, ctx, _ = checking.compile_form(model, form, SIZE, tmp_path)
    for image in images:
        alone.append(from_outputs(checking.run(path, ctx, image), ctx.io))
    assert not match(alone[0], alone[1]).exact
    path, ctx, _ = checking.compile_form(model, form, SIZE, tmp_path, batch=2)
    outputs = OrtRunner(path, 2)(Feeder.of(ctx.io, Preprocess.of(ctx.spec().image))(images, None))
    for row, one in enumerate(alone):
        report = match(one, from_outputs(outputs, ctx.io, row))
        assert report.exact
        assert report.mask is not None
        assert report.mask < 1e-3, report


def test_the_canvas_does_not_matter(model: Path, tmp_path: Path) -> None:
    """With exact padding, maps are zero beyond the picture, as what is sampled beyond a map is."""
    image = pictures.blocks(meta(NAME)["picture"]["seed"], TRUE)
    alone = detect(model, tmp_path, image, SIZE, False, "onnxruntime")
    report = match(alone, detect(model, tmp_path, image, (416, 384), True, "onnxruntime"))
    assert report.exact, report
    assert report.mask is not None
    assert report.mask < 1e-3, report


def test_masks_of_other_detectors_are_left_alone(golden_model: Path) -> None:
    graph, ctx = Graph.load(golden_model), Context()
    passes = default_pipeline(CompileOptions(size=Size(*SIZE)), "onnxruntime").passes
    report = PassManager(passes, fingerprints=False).run(graph, ctx)
    (record,) = [r for r in report.records if r.name == "point-head"]
    assert record.skipped == "the detector has no point head"


def test_formulas_of_points() -> None:
    """Against what they say by hand."""
    np.testing.assert_allclose(points.regular_points(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    grid = np.arange(4.0).reshape(1, 2, 2)
    corners = np.array([[0.25, 0.25], [0.75, 0.75], [0.5, 0.5], [0.0, 0.25], [-0.25, 0.25]])
    np.testing.assert_allclose(points.sample(grid, corners)[0], [0, 3, 1.5, 0, 0])
    np.testing.assert_allclose(points.doubled(np.array([[0.0, 4.0], [0.0, 4.0]]))[0], [0, 1, 3, 4])
    places = points.least_certain(np.array([[[3.0, -1.0], [0.5, -1.0]]]), 3)
    assert places.tolist() == [[2, 1, 3]]
    np.testing.assert_allclose(points.points_of_grid(places, 2)[0], [[0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    inside = points.points_in_image(np.array([[[0.5, 0.25]]]), np.array([[10.0, 20.0, 30.0, 60.0]]))
    np.testing.assert_allclose(inside, [[[20.0, 30.0]]])
