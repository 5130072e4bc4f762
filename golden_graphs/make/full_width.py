"""The full-size R50-FPN of detectron2's model zoo with weights that follow from a seed.

See `seeding` for how. Only structure, biases and scales are stored.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from golden_graphs.make import exporting, seeding
from golden_graphs.make.seeding import Recipe
from onnxgraft.golden.weights import PACKED

NAME = "mask_rcnn_R_50_FPN_3x"
CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
SCENES = 3

# Added to the background class, so that most proposals are no detections. At this value the last
# detection of each scene leads the first one that is cut off by 8e-4 or more: rounding cannot swap
# them.
BACKGROUND = 3.15


def config() -> CfgNode:
    """The zoo's config, on the CPU and without pretrained weights."""
    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    return cfg


def seeded_model(cfg: CfgNode, image: np.ndarray) -> tuple[nn.Module, Recipe]:
    """The model of `cfg` with seeded weights calibrated on `image`, and their recipe."""
    model = build_model(cfg)
    return model, seeding.seeded(model, image, background=BACKGROUND)


def stored_model(cfg: CfgNode, complete: Path, recipe: Path) -> nn.Module:
    """The model of `cfg` with the weights and biases of `complete`: model.onnx as `recipe` (weights.json) filled it."""
    model = build_model(cfg).eval()
    graph = onnx.load(complete).graph
    held = {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    parameters = {t["names"]["model.onnx"]: t["parameter"] for t in json.loads(recipe.read_text())["tensors"]}
    biases = {node.input[1]: node.input[2] for node in graph.node if len(node.input) == 3}
    for tensor, parameter in parameters.items():
        layer = model.get_submodule(parameter.removesuffix(".weight"))
        layer.weight.data = held[tensor]
        norm = getattr(layer, "norm", None)
        if norm is not None:  # the export has it inside the convolution; here it only adds the bias
            norm.running_var.fill_(1 - norm.eps)
        (layer if norm is None else norm).bias.data = held[biases[tensor]]
    return model


def store(model: nn.Module, recipe: Recipe, image: np.ndarray, opsets: dict[str, int], output: Path) -> None:
    """Export `model` with each opset; write the graphs without weights, and `weights.json`."""
    stripped = seeding.Stripped(model, recipe)
    for file, opset in opsets.items():
        packed = lzma.compress(stripped.strip(file, exporting.export(model, image, opset)), preset=9)
        (output / f"{file}{PACKED}").write_bytes(packed)
    stripped.write(output / "weights.json")


def reference(graph: Path, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """ONNX Runtime's answers for a raw export, in the form of `exporting.detections`."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    answers = []
    for image in images:
        tensor = image.astype(np.float32).transpose(2, 0, 1)
        boxes, classes, masks, scores, _ = session.run(None, {session.get_inputs()[0].name: tensor})
        answers.append({"boxes": boxes, "scores": scores, "classes": classes, "masks": masks[:, 0]})
    return answers
