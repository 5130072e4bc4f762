"""A network that was traced for one picture runs a batch of them, wherever its axes have the pictures, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from helpers.graphs import run_graph

from golden_graphs.zoo import checking
from onnxgraft.detector.spec import DetectorSpec, ImageInput, Outputs, SemanticHead
from onnxgraft.errors import OnnxgraftError, Refusal
from onnxgraft.golden import catalog, pictures
from onnxgraft.ir.builder import Builder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.manifest import Preprocess
from onnxgraft.options import CompileOptions, Size
from onnxgraft.passes.default import default_pipeline
from onnxgraft.passes.emit.batch import follow_batch
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.targets import OrtRunner

RNG = np.random.default_rng(7)
WEIGHT = RNG.normal(size=(3, 6)).astype(np.float32)
MASK = RNG.normal(size=(4, 16, 16)).astype(np.float32)
BIAS = RNG.normal(size=(1, 4, 1, 1)).astype(np.float32)
TABLE = RNG.normal(size=(1, 8, 8, 3)).astype(np.float32)
PLACES = RNG.uniform(-1, 1, size=(1, 8, 8, 2)).astype(np.float32)
TOKEN = RNG.normal(size=(1, 1, 3)).astype(np.float32)
SCALES = RNG.normal(size=(3, 1, 1)).astype(np.float32)
SHIFT = RNG.normal(size=6).astype(np.float32)
DISTANCES = RNG.normal(size=(8, 8, 3)).astype(np.float32)

Network = Callable[[Builder, gs.Tensor], gs.Tensor]


def shape(b: Builder, tensor: gs.Tensor, *extents: int) -> gs.Tensor:
    return b.op("Reshape", [tensor, b.ints("shape", list(extents))], "reshaped")


def turn(b: Builder, tensor: gs.Tensor, *order: int) -> gs.Tensor:
    return b.op("Transpose", [tensor], "turned", perm=list(order))


def windows(b: Builder, image: gs.Tensor) -> gs.Tensor:
    """Attention in four windows, with a mask of each and a bias of each, as Swin has them."""
    cut = turn(b, shape(b, image, 1, 3, 2, 4, 2, 4), 0, 2, 4, 3, 5, 1)
    both = b.op("MatMul", [shape(b, cut, -1, 16, 3), b.floats("weight", WEIGHT)], "both")
    both = turn(b, shape(b, both, 4, 16, 2, 3), 2, 0, 1, 3)
    q, k = (b.op("Gather", [both, b.const("index", i, np.int64)], "part", axis=0) for i in (0, 1))
    product = b.op("MatMul", [q, turn(b, k, 0, 2, 1)], "product")
    product = b.op("Add", [product, b.floats("mask", MASK)], "masked")
    product = b.op("Add", [shape(b, product, 1, 4, 16, 16), b.floats("bias", BIAS)], "biased")
    shares = b.op("Softmax", [shape(b, product, -1, 16, 16)], "shares", axis=-1)
    mixed = shape(b, b.op("MatMul", [shares, q], "mixed"), 1, 2, 2, 4, 4, 3)
    back = shape(b, turn(b, mixed, 0, 1, 3, 2, 4, 5), 1, 8, 8, 3)
    return turn(b, b.op("Add", [back, b.floats("table", TABLE)], "placed"), 0, 3, 1, 2)


def token(b: Builder, image: gs.Tensor) -> gs.Tensor:
    """A token beside those of the picture, which it is joined with and cut off from."""
    tokens = turn(b, shape(b, image, 1, 3, 64), 0, 2, 1)
    joined = b.op("Concat", [b.floats("token", TOKEN), tokens], "joined", axis=1)
    joined = b.op("Mul", [joined, b.op("ReduceMean", [joined], "mean", axes=[1], keepdims=1)], "scaled")
    own = b.op("Slice", [joined, b.ints("from", [1]), b.ints("to", [65]), b.ints("axes", [1])], "own")
    return shape(b, turn(b, own, 0, 2, 1), 1, 3, 8, 8)


def alone(b: Builder, image: gs.Tensor) -> gs.Tensor:
    """The axis of the picture is taken away and put back; rows meet a table of rows, as relative positions do."""
    picture = b.op("Squeeze", [image, b.ints("axes", [0])], "picture")
    picture = b.op("Mul", [picture, b.floats("scales", SCALES)], "scaled")
    rows = turn(b, b.op("Unsqueeze", [picture, b.ints("axes", [0])], "again"), 0, 2, 3, 1)
    near = b.op("Einsum", [rows, b.floats("distances", DISTANCES)], "near", equation="bhwc,hkc->bhwk")
    single = b.op("Gather", [near, b.const("first", 0, np.int64)], "single", axis=0)
    return turn(b, b.op("Unsqueeze", [single, b.ints("axes", [0])], "again"), 0, 3, 1, 2)


def vector(b: Builder, image: gs.Tensor) -> gs.Tensor:
    """Channels are weighed by a vector whose axis of pictures was squeezed away, as `squeeze()` does at a batch of one."""
    map_ = b.op("Tanh", [image], "map")
    means = b.op("Squeeze", [b.op("ReduceMean", [map_], "means", axes=[2, 3], keepdims=0)], "vector")
    hidden = b.op("MatMul", [means, b.floats("weight", WEIGHT)], "hidden")
    hidden = b.op("Add", [hidden, b.floats("shift", SHIFT)], "shifted")
    weights = b.op("MatMul", [b.op("Tanh", [hidden], "bent"), b.floats("back", WEIGHT.T)], "weights")
    return b.op("Mul", [map_, shape(b, weights, 1, 3, 1, 1)], "weighed")


def graph_of(network: Network) -> Graph:
    image = gs.Variable("image", np.float32, [1, 3, 8, 8])
    graph = Graph(gs.Graph([], [image], [], opset=17))
    made = network(Builder(graph, "net"), image)
    made.name = "map"
    graph.gs.outputs[:] = [made]
    infer_shapes(graph)
    return graph


def batched(network: Network, count: int) -> Graph:
    graph = graph_of(network)
    image = ImageInput("image", 8, 8, (0, 0, 0), (1, 1, 1), "BGR", True, "image")
    graph.gs.inputs[0].shape = [count, 3, 8, 8]
    follow_batch(graph, DetectorSpec("semantic", image, Outputs(None, None, None), semantic=SemanticHead(3, 1, "map")), count)
    return graph


@pytest.mark.parametrize("network", [windows, token, alone, vector])
def test_each_picture_gives_what_it_gives_alone(network: Network, tmp_path: Path) -> None:
    shown = RNG.normal(size=(3, 3, 8, 8)).astype(np.float32)
    single = graph_of(network)
    expected = [run_graph(single, {"image": one[None]}, tmp_path)[0][0] for one in shown]
    found = run_graph(batched(network, 3), {"image": shown}, tmp_path)[0]
    assert found.shape == (3, *expected[0].shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=0.1)


MIXING: dict[str, Network] = {
    "a mean over all": lambda b, x: b.op("Mul", [x, b.op("ReduceMean", [x], "mean", axes=[0, 1], keepdims=1)], "scaled"),
    "a sum over windows": lambda b, x: b.op(
        "ReduceSum", [shape(b, x, 3, 64), b.ints("axes", [0])], "sum", keepdims=1),
    "a product over columns of pictures": lambda b, x: b.op(
        "MatMul", [shape(b, turn(b, x, 1, 0, 2, 3), 3, 64), b.floats("right", np.ones((64, 4)))], "product"),
    "weights that a picture makes": lambda b, x: b.op(
        "Conv", [x, shape(b, b.op("ReduceMean", [x], "mean", axes=[2, 3], keepdims=1), 1, 3, 1, 1)], "convolved"),
    "places that all pictures share": lambda b, x: b.op("GridSample", [x, b.floats("places", PLACES)], "sampled"),
    "a sum over a vector": lambda b, x: b.op(
        "MatMul", [shape(b, x, 192), b.floats("right", np.ones(192))], "product"),
    "pictures inside a row": lambda b, x: shape(b, turn(b, x, 1, 2, 0, 3), 1, 3, 64),
    "a cut between windows": lambda b, x: b.op(
        "Slice", [shape(b, x, 3, 8, 8), b.ints("from", [1]), b.ints("to", [2]), b.ints("axes", [0])], "cut"),
    "windows joined with one's own": lambda b, x: b.op("Concat", [x, x], "joined", axis=0),
}  # fmt: skip


def test_an_operator_of_which_nothing_is_known_is_refused() -> None:
    """It once passed for one that leaves every value where it is."""
    with pytest.raises(Refusal, match=r"nothing is known of how this MeanVarianceNormalization keeps the pictures of a batch"):
        batched(lambda b, x: b.op("MeanVarianceNormalization", [x], "normal", axes=[0, 2, 3]), 2)


@pytest.mark.parametrize("what", MIXING)
def test_what_mixes_the_pictures_is_refused_with_the_node(what: str) -> None:
    with pytest.raises(Refusal, match=r"pictures of a batch.*build with --batch 1 \(node 'net/"):
        batched(MIXING[what], 2)


def test_pictures_of_a_vitdet_batch_are_each_right(tmp_path: Path) -> None:
    """Against the plugin form of one picture, which the member's own test holds to PyTorch."""
    model, numbers = catalog.resolve("mask_rcnn_vitdet_thin", tmp_path), catalog.folder("mask_rcnn_vitdet_thin") / "meta.json"
    shown = [pictures.blocks(seed, (256, 256)) for seed in (1, 2)]
    one, alone, _ = checking.compile_form(model, "plugin", (256, 256), tmp_path, numbers)
    singles = [from_outputs(checking.run(one, alone, picture, threads=2), alone.io) for picture in shown]
    assert min(map(len, singles)) > 50
    path, ctx, _ = checking.compile_form(model, "native", (256, 256), tmp_path, numbers, batch=2)
    outputs = OrtRunner(path, 2)(Feeder.of(ctx.io, Preprocess.of(ctx.spec().image))(shown, None))
    for row, single in enumerate(singles):
        report = match(single, from_outputs(outputs, ctx.io, row))
        assert report.exact, report


@pytest.mark.parametrize("size", [Size(256, 320), Size(320, 320)])
def test_a_trace_of_one_size_names_it(size: Size, tmp_path: Path) -> None:
    graph = Graph.load(catalog.resolve("mask_rcnn_vitdet_thin", tmp_path))
    steps = default_pipeline(CompileOptions(size=size), "onnxruntime").passes
    with pytest.raises(OnnxgraftError, match=r"this trace holds for 256x256 only.*take --size 256x256"):
        PassManager(steps, fingerprints=False).run(graph, Context())
