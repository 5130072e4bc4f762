"""Pictures on a larger canvas."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnxgraft.instruments.stage import stage_detections
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.detections import Detections
from onnxgraft.targets import OrtRunner

TRUE = (236, 300)  # of the image; 256 x 320 is what detectron2 pads it to


def detect(model: Path, folder: Path, picture: np.ndarray, canvas: tuple[int, int], exact: bool, target: str) -> Detections:
    options = CompileOptions(size=canvas, image_sizes=True, exact_padding=exact)
    graph, ctx = Graph.load(model), Context()
    PassManager(default_pipeline(options, target).passes, fingerprints=False).run(graph, ctx)
    graph.save(folder / "model.onnx")
    padded = np.zeros((1, 3, *canvas), np.float32)
    padded += np.array(ctx.spec().image.mean, np.float32)[:, None, None]
    padded[0, :, : TRUE[0], : TRUE[1]] = picture.transpose(2, 0, 1)
    outputs = OrtRunner(folder / "model.onnx")({"input_tensor": padded, "image_sizes": np.array([TRUE], np.float32)})
    return stage_detections(outputs, ctx)
