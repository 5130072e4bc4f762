"""Exports of torchvision's detectors with one change, as the analysis sees them and as ONNX Runtime runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from helpers.members import picture
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.targets import OrtRunner

MEMBER = "mask_rcnn_torchvision_thin"
SIZE = (256, 320)
Change = Callable[[onnx.ModelProto], None]


def recognise(
    change: Change | None, folder: Path, size: tuple[int, int] = SIZE, member: str = MEMBER
) -> tuple[DetectorSpec, Path]:
    """The passes up to the analysis, on the member with one change; returns what it recognised, and the changed file."""
    model = onnx.load(catalog.resolve(member, folder))
    if change is not None:
        change(model)
    path = folder / "changed.onnx"
    onnx.save(model, path)
    graph, ctx = Graph.load(path), Context()
    steps = {step.name(): step for step in default_pipeline(CompileOptions(size=size), "onnxruntime").passes}
    for name in ("upgrade-opset", "repair-roi-align", "simplify", "fix-input"):
        if steps[name].applies(graph, ctx) is None:
            steps[name].run(graph, ctx)
    return ctx.spec(), path


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}


def compared(model: onnx.ModelProto, op: str, number: float) -> Iterator[onnx.TensorProto]:
    """The constants that nodes of a kind have as their second input, where they are a number."""
    held = constants(model)
    for node in model.graph.node:
        tensor = held.get(node.input[1]) if node.op_type == op and len(node.input) > 1 else None
        if tensor is not None and np.isclose(numpy_helper.to_array(tensor).reshape(-1), number).all():
            yield tensor


def put(op: str, number: float, other: float, most: int = 99) -> Change:
    def change(model: onnx.ModelProto) -> None:
        found = list(compared(model, op, number))[:most]
        assert found
        for tensor in found:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, other)))

    return change


def together(*changes: Change) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for one in changes:
            one(model)

    return change


def file_answers(path: Path, seen: np.ndarray | None = None, first: int | None = None) -> dict[str, np.ndarray]:
    """What a file says of a picture uint8 BGR [H, W, 3] (the member's), in the form of stored answers.

    Args:
        first: the number of its first class; None for 1 where it has masks, else 0.
    """
    image = np.ascontiguousarray((picture(MEMBER) if seen is None else seen)[:, :, ::-1].transpose(2, 0, 1))
    image = image.astype(np.float32) / 255
    (given,) = (i.name for i in onnx.load(path).graph.input)
    found = list(OrtRunner(path, 1)({given: image}).values())
    boxes, labels = (next(a for a in found if a.ndim == n and (a.dtype == np.int64) == (n == 1)) for n in (2, 1))
    scores = next(a for a in found if a.ndim == 1 and a is not labels)
    masks = [a[:, 0] for a in found if a.ndim == 4]
    number = len(masks) if first is None else first
    return {"boxes": boxes, "classes": labels - number, "scores": scores} | ({"masks": masks[0]} if masks else {})
