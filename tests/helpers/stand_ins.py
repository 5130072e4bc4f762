"""Builds whose graph answers with the stored detections of data/make_runtime_maps.py, whatever it is fed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

STORED = np.load(Path(__file__).parents[1] / "data" / "runtime_maps.npz")
CANVAS = (64, 96)


def stand_in(folder: Path, outputs: dict[str, np.ndarray], batch: int = 1) -> Path:
    """A build whose network always gives `outputs` for each image of a batch."""
    folder.mkdir()
    image = helper.make_tensor_value_info("input_tensor", onnx.TensorProto.FLOAT, [batch, 3, *CANVAS])
    nodes, held, infos = [], [], []
    for name, values in outputs.items():
        tensor = numpy_helper.from_array(np.stack([values] * batch), f"{name}_held")
        held.append(tensor)
        nodes.append(helper.make_node("Identity", [tensor.name], [name]))
        infos.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    graph = helper.make_graph(nodes, "g", [image], infos, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    manifest: dict[str, Any] = {
        "runnable": "model.onnx", "target": "onnxruntime", "source": {"model": "none.onnx"},
        "io": {"input": {"name": "input_tensor", "shape": [batch, 3, *CANVAS]}},
        "preprocess": {"shortest_edge": 60, "longest_edge": 90}, "class_names": ["a", "b", "c"],
        "panoptic": {"overlap_threshold": 0.3, "stuff_area_limit": 200, "instances_score_threshold": 0.4},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def detected(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    return {"num_detections": np.array([len(boxes)], np.int32), "detection_boxes": boxes.astype(np.float32),
            "detection_scores": scores.astype(np.float32), "detection_classes": classes.astype(np.int32)}  # fmt: skip


def panoptic(folder: Path, batch: int = 1) -> Path:
    """A stand-in for a Panoptic FPN."""
    order = np.argsort(-STORED["scores"], kind="stable")  # as suppression gives them
    outputs = detected(*(STORED[k][order] for k in ("boxes", "scores", "classes")))
    return stand_in(folder, outputs | {"detection_masks": STORED["masks"][order], "semantic_logits": STORED["logits"]}, batch)


def keypoints(folder: Path, batch: int = 1) -> Path:
    """A stand-in for a Keypoint R-CNN."""
    boxes = STORED["heatmap_boxes"]
    outputs = detected(boxes, np.linspace(0.9, 0.5, len(boxes)), np.zeros(len(boxes)))
    return stand_in(folder, outputs | {"detection_keypoint_heatmaps": STORED["heatmaps"]}, batch)
