"""Export of detectron2 models to ONNX, and their detections in PyTorch.

Runs where torch and detectron2 are installed. The export is the one of detectron2's
tools/deploy/export_model.py (`--export-method tracing --format onnx`): a TracingAdapter around
`model.inference(..., do_postprocess=False)`, traced by the TorchScript exporter.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from detectron2.export import TracingAdapter

LEAKS = re.compile(rb"site-packages|/home/|/root/|/work/|/tmp/|\.py\b")


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """A uint8 image [H,W,3] as the float32 [3,H,W] tensor that detectron2 models take."""
    return torch.as_tensor(image.astype("float32").transpose(2, 0, 1).copy())


def export(model: torch.nn.Module, image: np.ndarray, opset: int) -> onnx.ModelProto:
    """Trace `model` on `image` (uint8 [H,W,3]) and return it as ONNX without source lines."""

    def inference(model: Any, inputs: Any) -> list[dict[str, Any]]:
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    tensor = to_tensor(image)
    adapter = TracingAdapter(model, [{"image": tensor}], inference)
    adapter.eval()  # torch restores the adapter's mode after tracing, in the model too
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(adapter, (tensor,), buffer, opset_version=opset, dynamo=False)
    return anonymous(onnx.load_from_string(buffer.getvalue()))


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` without doc strings and metadata; raises ValueError if a path is left in it."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in _graphs(model.graph):
        graph.doc_string = ""
        for part in (
            *graph.node,
            *graph.initializer,
            *graph.input,
            *graph.output,
            *graph.value_info,
        ):
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


def detections(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """PyTorch's detections on a uint8 image [H,W,3], best first.

    Returns boxes float32 [n,4] (x1,y1,x2,y2, pixels), scores float32 [n], classes int64 [n] and,
    with a mask head, masks float32 [n,28,28] (probabilities).
    """
    with torch.no_grad():
        found = model.inference([{"image": to_tensor(image)}], do_postprocess=False)[0]
    result = {
        "boxes": found.pred_boxes.tensor.numpy(),
        "scores": found.scores.numpy(),
        "classes": found.pred_classes.numpy(),
    }
    if found.has("pred_masks"):
        result["masks"] = found.pred_masks[:, 0].numpy()
    return result


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every subgraph inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
