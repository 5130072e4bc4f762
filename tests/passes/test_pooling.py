"""What passes emit for a ROIPooler, against RoiAlign of the level that detectron2 takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers.graphs import run_graph

from onnxgraft.detector.spec import DetectorSpec, ImageInput, Outputs, Pooler
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.passes.emit.roi_pooler import pool
from onnxgraft.pipeline.context import Context

IMAGE, CHANNELS, BINS = (256, 320), 2, 3
BOXES = np.array([
    [10, 20, 60, 90], [30, 40, 250, 240], [0, 0, 320, 256], [100, 100, 213, 213],
    [319.96, 40, 320, 60], [100, 255.9, 140, 256], [319.9, 200, 320, 256],  # thin, at the far edges
    [50.5, 60, 50.53, 200], [64, 80, 64, 120], [80, 90, 130, 90], [320, 256, 320, 256],  # thin, and without area
], np.float32)  # fmt: skip


def pooler(levels: int, aligned: bool, ratio: int) -> Pooler:
    names = tuple(f"map{i}" for i in range(levels))
    return Pooler(resolution=BINS, sampling_ratio=ratio, aligned=aligned, scales=tuple(0.25 / 2**i for i in range(levels)),
                  min_level=2, canonical_level=4.0, canonical_size=224.0, epsilon=1e-8, channels=CHANNELS,
                  feature_tensors=names, boxes_tensor="boxes", pooled_tensor="pooled")  # fmt: skip


def context() -> Context:
    image = ImageInput("image", *IMAGE, (0, 0, 0), (1, 1, 1), "BGR", True, "normalized")
    return Context(detector=DetectorSpec("mask-rcnn-fpn", image, Outputs("boxes", "scores", "classes")))


def maps(levels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {f"map{i}": rng.standard_normal((1, CHANNELS, IMAGE[0] // (4 << i), IMAGE[1] // (4 << i))).astype(np.float32)
            for i in range(levels)}  # fmt: skip


def emitted(setting: Pooler, folder: Path, some_empty: bool) -> np.ndarray:
    features = maps(len(setting.scales))
    inputs = [gs.Variable(name, np.float32, list(v.shape)) for name, v in features.items()]
    inputs.append(gs.Variable("boxes", np.float32, [1, len(BOXES), 4]))
    graph = Graph(gs.Graph([], inputs, [], opset=19))
    b = Builder(graph, "test")
    made = pool(b, context(), setting, b.of(inputs[-1]), [b.of(t) for t in inputs[:-1]], some_empty)
    graph.gs.outputs[:] = [made.handle]
    graph.cleanup()
    return run_graph(graph, features | {"boxes": BOXES[None]}, folder)[0]


def expected(setting: Pooler, folder: Path) -> np.ndarray:
    """ONNX's own RoiAlign on the level of each box."""
    features = maps(len(setting.scales))
    side = np.sqrt(np.prod(BOXES[:, 2:].astype(np.float64) - BOXES[:, :2], 1))
    with np.errstate(divide="ignore"):
        level = np.clip(np.floor(4 + np.log2(side / 224 + 1e-8)) - 2, 0, len(setting.scales) - 1).astype(int)
    mode = "half_pixel" if setting.aligned else "output_half_pixel"
    rows = []
    for box, number in zip(BOXES, level, strict=True):
        feature = features[f"map{number}"]
        inputs = [gs.Variable("x", np.float32, list(feature.shape)), gs.Variable("rois", np.float32, [1, 4])]
        out = gs.Variable("y", np.float32, [1, CHANNELS, BINS, BINS])
        attrs = {"output_height": BINS, "output_width": BINS, "sampling_ratio": setting.sampling_ratio,
                 "spatial_scale": setting.scales[number], "coordinate_transformation_mode": mode}  # fmt: skip
        image = gs.Constant("image_of", np.zeros(1, np.int64))
        graph = Graph(gs.Graph([gs.Node("RoiAlign", "roi", attrs, [*inputs, image], [out])], inputs, [out], opset=19))
        rows.append(run_graph(graph, {"x": feature, "rois": box[None]}, folder)[0])
    return np.concatenate(rows)


SETTINGS = [(4, True, 0), (4, False, 0), (4, False, 2), (3, True, 0), (3, False, 0), (5, True, 2), (1, True, 0), (1, False, 0)]


@pytest.mark.parametrize(("levels", "aligned", "ratio"), SETTINGS)
def test_boxes_are_pooled_as_by_roi_align_of_their_level(levels: int, aligned: bool, ratio: int, tmp_path: Path) -> None:
    setting = pooler(levels, aligned, ratio)
    found = emitted(setting, tmp_path, some_empty=True)
    np.testing.assert_allclose(found, expected(setting, tmp_path), atol=2e-4)
