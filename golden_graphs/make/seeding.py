"""Weights that follow from a seed, for any detectron2 model: every score spreads and detections exist.

Every weight matrix is uniform noise times one scale. The scales, and a bias per channel, are calibrated once so that
each layer's output has a chosen spread and mean on one image; without the biases a random network answers the same
everywhere. `recipe` says which stream and scale each weight has, so that only biases and scales need to be stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from detectron2.layers import DeformConv, FrozenBatchNorm2d, ModulatedDeformConv
from torch import nn
from torchvision.ops import deform_conv2d

from onnxgraft.frontends.detectron2.families import family_of, heatmaps_only
from onnxgraft.frontends.detectron2.tracing import boxes_on, deformable, to_tensor
from onnxgraft.golden.weights import weights as seeded_weights

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
    "predictor": 2.0,
    "score_lowres": 2.0,
    "coarse_head.prediction": 2.0,
    "conv2_offset": 0.25,
}
# Mean of a layer's output, by the end of its name; 0 for all others.
MEAN: dict[str, float] = {}

POSITIONS = ("pos_embed", "rel_pos_h", "rel_pos_w", "relative_position_bias_table", "absolute_pos_embed")

Recipe = dict[str, tuple[int, float]]  # parameter name: (stream, scale)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, DeformConv, ModulatedDeformConv)
NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)


def seeded(
    model: nn.Module,
    image: np.ndarray,
    *,
    background: float = 0.0,
    spread: Mapping[str, float] = SPREAD,
    mean: Mapping[str, float] = MEAN,
) -> Recipe:
    """Give `model` seeded weights calibrated on `image` (uint8 [H,W,3]) and return their recipe.

    `background` is added to the background class of an R-CNN's scores, so that most proposals are no detections.
    """
    model.eval()
    recipe: Recipe = {}
    hooks = []
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LAYERS)]
    owned = {id(getattr(layer, "norm", None)) for _, layer in layers}
    for stream, (name, layer) in enumerate(layers):
        want = (by_ending(spread, name, 1.0), by_ending(mean, name, 0.0), background if name.endswith("cls_score") else 0.0)
        hooks.append(layer.register_forward_pre_hook(calibration(name, stream, recipe, *want)))
    for name, module in model.named_modules():
        if isinstance(module, NORMS) and id(module) not in owned:
            hooks.append(module.register_forward_pre_hook(_statistics(name)))
    family = family_of(model)
    inputs: dict[str, Any] = {"image": to_tensor(image)}
    if family.proposals:
        inputs["proposals"] = torch.as_tensor(boxes_on(image.shape[:2]))
    with torch.no_grad(), heatmaps_only(), deformable():
        family.infer(model, [inputs])
    for hook in hooks:
        hook.remove()
    missing = [name for name, _ in layers if f"{name}.weight" not in recipe]
    if missing:
        raise ValueError(f"not run, as nothing was detected: {missing[:3]} of {len(missing)}")
    return recipe


def spread_positions(model: nn.Module) -> None:
    """Give the position tables of transformers, which begin at nothing, values by which a wrong one shows."""
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in POSITIONS:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


class Stripped:
    """Exports of one seeded model without the weights that its recipe makes again."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._parameters = dict(model.named_parameters())
        self._recipe = {name: recipe[name] for name in sorted(recipe, key=lambda name: recipe[name][0])}
        self._names: dict[str, dict[str, str]] = {name: {} for name in self._recipe}

    def strip(self, file: str, exported: onnx.ModelProto) -> bytes:
        """The bytes of `exported`, whose file is `file`, without its weights."""
        for tensor in exported.graph.initializer:
            if len(tensor.raw_data) < STRIPPED or len(tensor.dims) < 2:
                continue
            value = onnx.numpy_helper.to_array(tensor)
            free = (n for n in self._recipe if file not in self._names[n] and _same(self._parameters[n], value))
            if name := next(free, None):
                self._names[name][file] = tensor.name
                tensor.ClearField("raw_data")
        return exported.SerializeToString(deterministic=True)

    def write(self, path: Path) -> None:
        """Write `weights.json`: which tensor of which file has which seeded weights."""
        tensors = [
            {"parameter": name, "stream": stream, "shape": list(self._parameters[name].shape), "scale": scale,
             "names": self._names[name]}
            for name, (stream, scale) in self._recipe.items()
            if self._names[name]
        ]  # fmt: skip
        for place, tensor in enumerate(tensors):
            if tensor["stream"] == place:
                del tensor["stream"]
        rule = "scale * (u / 2**23 - 1), u = upper 24 bits of each word of Philox4x64-10(seed, stream)"
        lines = ",\n".join(json.dumps(tensor) for tensor in tensors)
        path.write_text(f'{{"rule": {json.dumps(rule)}, "seed": {SEED}, "tensors": [\n{lines}\n]}}\n')


def _same(parameter: torch.Tensor, value: np.ndarray) -> bool:
    """Whether an exported tensor is this parameter, up to the rounding of a folded batch norm."""
    return tuple(parameter.shape) == value.shape and np.allclose(parameter.detach().numpy(), value, rtol=1e-5, atol=0)


def by_ending(table: Mapping[str, float], name: str, default: float) -> float:
    return next((value for end, value in table.items() if name.endswith(end)), default)


def calibration(name: str, stream: int, recipe: Recipe, spread: float, mean: float, background: float) -> Any:
    """A hook that sets a layer's weight and bias from its first input."""

    def calibrate(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        key = f"{name}.weight"
        if key in recipe or inputs[0].numel() == 0:
            return
        noise = _weight(stream, layer.weight.shape, 1.0)
        output = _linear(layer, inputs, noise)
        channel = output.dim() - 1 if isinstance(layer, nn.Linear) else 1
        axes = [axis for axis in range(output.dim()) if axis != channel]
        pooled = output.numel() == output.shape[channel]  # one value a channel: centred on its own it would always be nothing
        std = float(output.std()) if pooled else float(output.std(dim=axes).mean())
        scale = float(np.float32(spread / max(std, 1e-6)))
        recipe[key] = (stream, scale)
        layer.weight.data = _weight(stream, layer.weight.shape, scale)
        centre = output.mean().expand(output.shape[channel]) if pooled else output.mean(dim=axes)
        bias = mean - scale * centre
        if background:
            bias[-1] += background
        norm = getattr(layer, "norm", None)
        if isinstance(norm, NORMS):  # a batch norm that only adds the bias
            norm.weight.data.fill_(1)
            norm.running_mean.fill_(0)
            norm.running_var.fill_(1 - norm.eps)
            norm.bias.data.copy_(bias)
        elif layer.bias is not None:
            layer.bias.data = bias

    return calibrate


def _statistics(name: str) -> Any:
    """A hook that gives a batch norm the statistics of its first input."""
    seen: list[str] = []

    def calibrate(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0]
        if seen or x.numel() == 0:
            return
        seen.append(name)
        norm.running_mean.copy_(x.mean((0, 2, 3)))
        norm.running_var.copy_(x.var((0, 2, 3), unbiased=False) + 1e-3)
        norm.weight.data.fill_(0.5 if getattr(norm, "final_bn", False) else 1.0)

    return calibrate


def _weight(stream: int, shape: Sequence[int], scale: float) -> torch.Tensor:
    count = int(np.prod(shape))
    flat = np.concatenate(list(seeded_weights(SEED, stream, count, scale)))
    return torch.from_numpy(flat.reshape(tuple(shape)))


def _linear(layer: Any, inputs: tuple[torch.Tensor, ...], weight: torch.Tensor) -> torch.Tensor:
    """The layer's output without bias, norm and activation."""
    x = inputs[0]
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, weight)
    if isinstance(layer, nn.ConvTranspose2d):
        return nn.functional.conv_transpose2d(x, weight, None, layer.stride, layer.padding)
    if isinstance(layer, (DeformConv, ModulatedDeformConv)):
        mask = inputs[2] if len(inputs) > 2 else None
        return deform_conv2d(x, inputs[1], weight, None, layer.stride, layer.padding, layer.dilation, mask)
    if isinstance(layer, nn.Conv1d):
        return nn.functional.conv1d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return nn.functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
