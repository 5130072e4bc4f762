"""The full-size R50-FPN of detectron2's model zoo with weights that follow from a seed.

Every weight matrix is uniform noise times one scale. The scales, and a bias per channel, are
calibrated once so that each layer's output has a chosen spread and mean zero on one scene; without
the biases a random network answers the same everywhere. Only structure, biases and scales are
stored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from onnxgraft import golden

from . import exporting

NAME = "mask_rcnn_R_50_FPN_3x"
CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
SCENES = 3
SEED = 20260
STRIPPED = 1024  # bytes; weights of this size and more are not stored

# Standard deviation of a layer's output, by the end of its name; 1 for all others. Small residual
# branches and deltas keep the network calm; spread logits give scores that differ.
SPREAD = {
    ".conv3": 0.5,
    "objectness_logits": 2.0,
    "anchor_deltas": 0.3,
    "cls_score": 1.6,
    "bbox_pred": 0.7,
    "mask_head.predictor": 2.0,
}
# Added to the background class, so that most proposals are no detections. At this value the last
# detection of each scene leads the first one that is cut off by 8e-4 or more: rounding cannot swap
# them.
BACKGROUND = 3.15

Recipe = dict[str, tuple[int, float]]  # parameter name: (stream, scale)
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def config() -> CfgNode:
    """The zoo's config, on the CPU and without pretrained weights."""
    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    return cfg


def seeded_model(cfg: CfgNode, image: np.ndarray) -> tuple[nn.Module, Recipe]:
    """The model of `cfg` with seeded weights calibrated on `image`, and their recipe."""
    model = build_model(cfg).eval()
    recipe: Recipe = {}
    hooks = []
    for stream, (name, layer) in enumerate(
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, LAYERS)
    ):
        hooks.append(layer.register_forward_pre_hook(_calibration(name, stream, recipe)))
    with torch.no_grad():
        model.inference([{"image": exporting.to_tensor(image)}], do_postprocess=False)
    for hook in hooks:
        hook.remove()
    return model, recipe


def _calibration(name: str, stream: int, recipe: Recipe) -> Any:
    """A hook that sets a layer's weight and bias from its first input."""
    spread = next((value for end, value in SPREAD.items() if name.endswith(end)), 1.0)

    def calibrate(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        key = f"{name}.weight"
        if key in recipe:
            return
        noise = _weight(stream, layer.weight.shape, 1.0)
        output = _linear(layer, inputs[0], noise)
        axes = [axis for axis in range(output.dim()) if axis != 1]
        std = float(output.std(dim=axes).mean())
        scale = float(np.float32(spread / std))
        recipe[key] = (stream, scale)
        layer.weight.data = _weight(stream, layer.weight.shape, scale)
        bias = -scale * output.mean(dim=axes)
        if name.endswith("cls_score"):
            bias[-1] += BACKGROUND
        norm = getattr(layer, "norm", None)
        if norm is None:
            layer.bias.data = bias
        else:  # a frozen batch norm that only adds the bias
            norm.weight.fill_(1)
            norm.running_mean.fill_(0)
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.copy_(bias)

    return calibrate


def _weight(stream: int, shape: Sequence[int], scale: float) -> torch.Tensor:
    count = int(np.prod(shape))
    flat = np.concatenate(list(golden.weights(SEED, stream, count, scale)))
    return torch.from_numpy(flat.reshape(tuple(shape)))


def _linear(layer: nn.Module, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer's output without bias, norm and activation."""
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(inputs, weight)
    if isinstance(layer, nn.ConvTranspose2d):
        return nn.functional.conv_transpose2d(inputs, weight, None, layer.stride, layer.padding)
    return nn.functional.conv2d(inputs, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def store(model: nn.Module, recipe: Recipe, image: np.ndarray, opsets: dict[str, int], output: Path) -> None:
    """Export `model` with each opset; write the graphs without weights, and `weights.json`."""
    parameters = dict(model.named_parameters())
    ordered = sorted(recipe, key=lambda name: recipe[name][0])
    names: dict[str, dict[str, str]] = {name: {} for name in ordered}
    for file, opset in opsets.items():
        exported = exporting.export(model, image, opset)
        for tensor in exported.graph.initializer:
            if len(tensor.raw_data) < STRIPPED or len(tensor.dims) < 2:
                continue
            value = onnx.numpy_helper.to_array(tensor)
            name = next(n for n in ordered if _same(parameters[n], value) and file not in names[n])
            names[name][file] = tensor.name
            tensor.ClearField("raw_data")
        (output / file).write_bytes(exported.SerializeToString(deterministic=True))
    tensors = [
        {
            "parameter": name,
            "shape": list(parameters[name].shape),
            "scale": recipe[name][1],
            "names": names[name],
        }
        for name in ordered
    ]
    incomplete = [t["parameter"] for t in tensors if t["names"].keys() != opsets.keys()]
    if incomplete:
        raise ValueError(f"not found in the exports: {incomplete}")
    rule = "scale * (u / 2**23 - 1), u = upper 24 bits of each word of Philox4x64-10(seed, stream)"
    text = json.dumps({"rule": rule, "seed": SEED, "tensors": tensors}, indent=1)
    (output / "weights.json").write_text(text + "\n")


def _same(parameter: torch.Tensor, value: np.ndarray) -> bool:
    """Whether an exported tensor is this parameter, up to the rounding of a folded batch norm."""
    if tuple(parameter.shape) != value.shape:
        return False
    return np.allclose(parameter.detach().numpy(), value, rtol=1e-5, atol=0)


def reference(graph: Path, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """ONNX Runtime's answers for a raw export, in the form of `exporting.detections`."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    answers = []
    for image in images:
        tensor = image.astype(np.float32).transpose(2, 0, 1)
        boxes, classes, masks, scores, _ = session.run(None, {session.get_inputs()[0].name: tensor})
        answers.append({"boxes": boxes, "scores": scores, "classes": classes, "masks": masks[:, 0]})
    return answers
