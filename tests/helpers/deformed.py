"""Deformable networks to test with: a small block, and the golden detector with some of its convolutions deformed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper, version_converter

from onnxgraft.ir.graph import Graph

OPSET = 19


def block(
    *, mask: bool = False, bias: bool = False, norm: bool = False, batch: int = 2, seed: int = 0, **attrs: object
) -> Graph:
    """A DeformConv as detectron2's blocks hold one: offsets from a convolution, a batch norm behind it."""
    rng = np.random.default_rng(seed)
    kernels: dict[str, tuple[int, ...]] = {"w": (4, 4, 3, 3), "predict": (27 if mask else 18, 4, 3, 3)}
    kernels |= dict.fromkeys(("scale", "shift", "mean", "b"), (4,))
    weights = {name: rng.normal(size=shape).astype(np.float32) * 0.4 for name, shape in kernels.items()}
    weights["variance"] = rng.uniform(0.5, 2, 4).astype(np.float32)
    weights["cuts"] = np.array([18, 9], np.int64)
    nodes = [helper.make_node("Conv", ["x", "predict"], ["predicted"], name="predicts", pads=[1] * 4)]
    if mask:
        nodes += [helper.make_node("Split", ["predicted", "cuts"], ["offset", "logits"], name="cut", axis=1),
                  helper.make_node("Sigmoid", ["logits"], ["mask"], name="sigmoid")]  # fmt: skip
    inputs = ["x", "w", "offset" if mask else "predicted", "b" if bias else "", "mask" if mask else ""]
    inputs = inputs[: 5 if mask else 4 if bias else 3]
    nodes.append(helper.make_node("DeformConv", inputs, ["bent" if norm else "y"], name="bends",
                                  **{"pads": [1] * 4, **attrs}))  # fmt: skip
    if norm:
        nodes.append(helper.make_node("BatchNormalization", ["bent", "scale", "shift", "mean", "variance"], ["y"], name="norm"))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "block", [helper.make_tensor_value_info("x", 1, [batch, 4, 6, 7])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items() if name in used],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return Graph(gs.import_onnx(onnx.shape_inference.infer_shapes(model)))


def deform(source: Path, target: Path, convolutions: int = 4, mask: bool = True) -> None:
    """Write a detector some of whose 3x3 convolutions in the backbone are deformed by up to a few cells."""
    model = version_converter.convert_version(onnx.load(source), OPSET)
    weights = {t.name: t for t in model.graph.initializer}
    chosen = [
        node for node in model.graph.node
        if node.op_type == "Conv" and list(weights[node.input[1]].dims[2:]) == [3, 3] and weights[node.input[1]].dims[0] < 512
    ][4 : 4 + convolutions]  # fmt: skip
    rng = np.random.default_rng(1)
    for number, node in enumerate(chosen):
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "auto_pad"}
        channels = weights[node.input[1]].dims[1]
        outputs = 27 if mask else 18
        predict = rng.normal(size=(outputs, channels, 3, 3)).astype(np.float32) * np.float32(0.15 / np.sqrt(9 * channels))
        lean = np.where(np.arange(outputs) < 18, 0.0, 3.0).astype(np.float32)  # masks near one
        names = [f"deformed{number}_{what}" for what in ("predict", "lean", "cuts", "predicted", "offset", "logits", "mask")]
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name)
            for array, name in zip((predict, lean, np.array([18, 9], np.int64)), names[: 3 if mask else 2], strict=False)
        )
        made = [helper.make_node("Conv", [node.input[0], *names[:2]], [names[3]], name=names[3], **attrs)]
        if mask:
            made += [helper.make_node("Split", [names[3], names[2]], names[4:6], name=f"{names[4]}_cut", axis=1),
                     helper.make_node("Sigmoid", [names[5]], [names[6]], name=names[6])]  # fmt: skip
        inputs = [node.input[0], node.input[1], names[4] if mask else names[3], *node.input[2:], *([names[6]] if mask else [])]
        made.append(helper.make_node("DeformConv", inputs, node.output, name=f"deformed{number}", **attrs))
        at = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for offset, new in enumerate(made):
            model.graph.node.insert(at + offset, new)
    onnx.save(model, target)
