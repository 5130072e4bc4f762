"""A detectron2 model traced to ONNX, as detectron2's tools/deploy/export_model.py does it, at any opset.

A TracingAdapter around the model's inference, through the TorchScript exporter (`dynamo=False`: detectron2's
tracing does not survive the newer one). Imported only where torch and detectron2 are installed.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from detectron2.export import TracingAdapter
from detectron2.layers import DeformConv, ModulatedDeformConv
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d

from onnxgraft.errors import InputError
from onnxgraft.frontends.detectron2.families import Family, family_of, heatmaps_only

DEFORM_OPSET = 19  # the first with DeformConv
LEAKS = re.compile(rb"site-packages|/home/|/root/|/tmp/|\.py\b")


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """A uint8 image [H,W,3] as the float32 [3,H,W] tensor that detectron2 models take."""
    return torch.as_tensor(image.astype("float32").transpose(2, 0, 1).copy())


def smallest_opset(model: torch.nn.Module) -> int:
    """The lowest opset that says what `model` computes: 16 for RoiAlign's half pixel, 19 for DeformConv."""
    return DEFORM_OPSET if any(isinstance(m, (DeformConv, ModulatedDeformConv)) for m in model.modules()) else 16


def export(
    model: torch.nn.Module,
    image: np.ndarray,
    opset: int,
    proposals: np.ndarray | None = None,
    family: Family | None = None,
) -> onnx.ModelProto:
    """Trace `model` on `image` (uint8 [H,W,3]) and return it as ONNX without source lines.

    `proposals` float32 [R,4] (x1,y1,x2,y2, pixels) goes to models without a proposal generator, which get a second
    input of that form. Raises InputError when an operator has no form in `opset`.
    """
    family = family or family_of(model)
    tensor = to_tensor(image)
    sample: dict[str, torch.Tensor] = {"image": tensor}
    names, axes = None, None
    if family.proposals:
        boxes = boxes_on(tensor.shape[1:]) if proposals is None else proposals
        sample["proposals"] = torch.as_tensor(boxes)
        names, axes = ["image", "proposals"], {"proposals": {0: "proposals"}}
    adapter = TracingAdapter(model, [sample], family.infer)
    adapter.eval()  # torch restores the adapter's mode after tracing, in the model too
    buffer = io.BytesIO()
    with torch.no_grad(), heatmaps_only(), deformable(), quiet():
        try:
            torch.onnx.export(
                adapter, adapter.flattened_inputs, buffer, opset_version=opset, dynamo=False,
                input_names=names, dynamic_axes=axes,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            line = str(error).strip().splitlines()[0]
            raise InputError(f"the model has no form in ONNX opset {opset}: {line}") from error
    return anonymous(onnx.load_from_string(buffer.getvalue()))


def boxes_on(size: Any) -> np.ndarray:
    """A few proposals, float32 [R,4], of every pyramid level that fit an image of `size` (height, width)."""
    height, width = (int(side) for side in size)
    rows = [
        [x, y, min(x + side, width), min(y + side, height)]
        for side in (16, 48, 96, 192, 384, 640)
        for x, y in ((0, 0), (width // 4, height // 4), (width // 2, height // 2))
    ]
    return np.array(rows, np.float32)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the tracer's warnings, which say nothing that a user could act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Deformed(torch.autograd.Function):
    """Deformable convolution: torchvision's operator when run, which knows the CPU too, ONNX DeformConv when traced.

    Both order offsets as y,x per kernel point. `mask` is None for the form without modulation.
    """

    @staticmethod
    def forward(context: Any, x: Any, weight: Any, offset: Any, bias: Any, mask: Any, *sizes: Any) -> torch.Tensor:
        stride, padding, dilation, _, _ = sizes
        return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, offset: Any, bias: Any, mask: Any, *sizes: Any) -> Any:
        stride, padding, dilation, groups, deformable_groups = sizes
        operands = [x, weight, offset]
        if bias is not None or mask is not None:
            operands.append(bias if bias is not None else g.op("Constant", value_t=torch.zeros(weight.type().sizes()[0])))
        if mask is not None:
            operands.append(mask)
        return g.op(
            "DeformConv", *operands, kernel_shape_i=weight.type().sizes()[2:], strides_i=stride,
            pads_i=[*padding, *padding], dilations_i=dilation, group_i=groups, offset_group_i=deformable_groups,
        )  # fmt: skip


@contextmanager
def deformable() -> Iterator[None]:
    """Within, detectron2's deformable convolutions run on any device and are traced as ONNX DeformConv (opset 19)."""

    def forward(layer: Any, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        sizes = [list(_pair(size)) for size in (layer.stride, layer.padding, layer.dilation)]
        y = _Deformed.apply(x, layer.weight, offset, layer.bias, mask, *sizes, layer.groups, layer.deformable_groups)
        y = layer.norm(y) if layer.norm is not None else y
        return layer.activation(y) if layer.activation is not None else y

    with mock.patch.object(DeformConv, "forward", forward), mock.patch.object(ModulatedDeformConv, "forward", forward):
        yield


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without doc strings and metadata; raises ValueError if a path is left in it."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in _graphs(model.graph):
        graph.doc_string = ""
        for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
            part.doc_string = ""
            del part.metadata_props[:]
    refuse_paths(skeleton(model).SerializeToString())
    return model


def refuse_paths(data: bytes) -> None:
    """Raise ValueError if `data` holds something that looks like a path of this machine."""
    if found := LEAKS.search(data):
        raise ValueError(f"the export carries {data[found.start() - 40 : found.end() + 40]!r}")


def skeleton(model: onnx.ModelProto, smallest: int = 1024) -> onnx.ModelProto:
    """A copy of `model` whose initializers of `smallest` bytes and more have lost their data."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if len(tensor.raw_data) >= smallest:
            tensor.ClearField("raw_data")
    return copy


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every subgraph inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
