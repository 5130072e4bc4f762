"""Detectors of other kinds are refused by what they are, told by their structure alone."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxgraft.analysis import analyse
from onnxgraft.analysis.architectures import unknown_architecture
from onnxgraft.errors import Refusal
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes

RNG = np.random.default_rng(3)


def features(b: Builder, channels: int = 8) -> gs.Variable:
    """A map [1, channels, 8, 8] of the picture."""
    picture = b.op("Unsqueeze", [b.graph.gs.inputs[0], b.ints("axes", [0])], "picture")
    kernel = b.floats("kernel", RNG.normal(size=(channels, 3, 4, 4)))
    return b.op("Conv", [picture, kernel], "map", strides=[4, 4])


def tokens(b: Builder) -> gs.Variable:
    """The map's cells [1, 64, 8]."""
    rows = b.op("Reshape", [features(b), b.ints("rows", [1, 8, 64])], "rows")
    return b.op("Transpose", [rows], "tokens", perm=[0, 2, 1])


def graph_of(*outputs: gs.Tensor, graph: Graph) -> Graph:
    graph.gs.outputs[:] = list(outputs)
    infer_shapes(graph)
    return graph


def empty() -> tuple[Graph, Builder]:
    graph = Graph(gs.Graph([], [gs.Variable("image", np.float32, [3, 32, 32])], [], opset=17))
    return graph, Builder(graph, "net")


def attention(b: Builder, queries: gs.Tensor, cells: gs.Tensor) -> gs.Variable:
    """What each query takes from the cells."""
    keys = b.op("Transpose", [cells], "keys", perm=[0, 2, 1])
    product = b.op("Mul", [b.op("MatMul", [queries, keys], "product"), b.floats("scale", 0.35)], "scaled")
    return b.op("MatMul", [b.op("Softmax", [product], "shares", axis=-1), cells], "taken")


def decoder(learnt: bool) -> Graph:
    graph, b = empty()
    cells = tokens(b)
    queries = b.floats("queries", RNG.normal(size=(1, 5, 8))) if learnt else cells
    taken = attention(b, queries, cells)
    logits = b.op("MatMul", [taken, b.floats("classes", RNG.normal(size=(8, 4)))], "logits")
    classes = b.op("Softmax", [logits], "scores", axis=-1)
    boxes = b.op("Sigmoid", [b.op("MatMul", [taken, b.floats("boxes", RNG.normal(size=(8, 4)))], "deltas")], "boxes")
    return graph_of(classes, boxes, graph=graph)


def test_learnt_queries() -> None:
    words = r"queries that training learnt attend to the image here.*as in DETR, MaskFormer and Mask2Former"
    with pytest.raises(Refusal, match=words) as caught:
        analyse(decoder(learnt=True))
    assert caught.value.node == "net/Softmax:shares"


def test_attention_of_the_image_to_itself_and_a_classifier_are_no_queries() -> None:
    """A weight stands on the right of its product, a query on the left."""
    assert "no family of detectron2: neither boxes pooled" in str(unknown_architecture(decoder(learnt=False)))


def peaks(grouped: bool) -> Graph:
    graph, b = empty()
    heat = b.op("Sigmoid", [features(b, 1)], "heat")
    largest = b.op("MaxPool", [heat], "largest", kernel_shape=[3, 3], pads=[1] * 4)
    kept = b.op("Mul", [heat, b.op("Cast", [b.op("Equal", [heat, largest], "is"), ], "kept", to=1)], "peaks")
    flat = b.op("Reshape", [kept, b.ints("flat", [64])], "flat")
    values, places = b.ops("TopK", [flat, b.ints("k", [5])], [("values", np.float32, [5]), ("places", np.int64, [5])])
    if not grouped:
        return graph_of(values, places, graph=graph)
    centre = b.op("Cast", [b.op("Unsqueeze", [places, b.ints("axes", [1])], "rows")], "centre", to=1)
    apart = b.op("Abs", [b.op("Sub", [centre, flat], "difference")], "apart")
    return graph_of(b.op("ArgMin", [apart], "own", axis=0), graph=graph)


@pytest.mark.parametrize(("grouped", "words"), [
    (True, "pixels are grouped around them by their offsets, as in Panoptic-DeepLab"),
    (False, "objects are read off at them, as in CenterNet"),
])  # fmt: skip
def test_peaks_of_a_heatmap(grouped: bool, words: str) -> None:
    with pytest.raises(Refusal, match=rf"the peaks of a heatmap of centres are found here, and {words}") as caught:
        analyse(peaks(grouped))
    assert caught.value.node == "net/MaxPool:largest"


def maps(*channels: int) -> Graph:
    graph, b = empty()
    return graph_of(*(features(b, c) for c in channels), graph=graph)


def test_classes_centres_and_offsets_of_every_pixel() -> None:
    with pytest.raises(Refusal, match=r"of classes, of centres and of two offsets to them, as in Panoptic-DeepLab"):
        analyse(maps(19, 1, 2))


@pytest.mark.parametrize("channels", [(19, 1, 3), (19, 1), (19, 1, 2, 4)])
def test_other_maps_are_not_named(channels: tuple[int, ...]) -> None:
    assert "Panoptic-DeepLab" not in str(unknown_architecture(maps(*channels)))
