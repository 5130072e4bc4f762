"""The integer-kernels pass: what becomes QLinearConv, and that the numbers are those of the Q/DQ graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from helpers.graphs import parse_graph
from helpers.stages import Stages, run_unordered

from onnxgraft.analysis.qdq_placement import Sites
from onnxgraft.analysis.regions import find_regions
from onnxgraft.errors import InputError, PassError
from onnxgraft.instruments.verify import verify_graph
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes import IntegerKernels, Quantize
from onnxgraft.passes.default import default_pipeline
from onnxgraft.passes.quantize import _dequantized
from onnxgraft.pipeline.context import Context, Ranges
from onnxgraft.pipeline.manager import PassManager

SIZE, CHANNELS = 12, 4


def network(relu: bool) -> Graph:
    """Conv, with or without a ReLU, and a second Conv that reads it."""
    between, read = ("r = Relu(c)", "r") if relu else ("", "c")
    graph = parse_graph(f"""<ir_version: 8, opset_import: ["" : 19]>
        agraph (float[1,{CHANNELS},{SIZE},{SIZE}] x) => (float[1,{CHANNELS},{SIZE},{SIZE}] y)
            <float[{CHANNELS},{CHANNELS},3,3] w1 = {{{numbers(0)}}}, float[{CHANNELS}] b1 = {{0.5, -0.25, 0, 1}},
             float[{CHANNELS},{CHANNELS},3,3] w2 = {{{numbers(1)}}}> {{
            p = Relu(x)
            c = Conv<pads = [1,1,1,1]>(p, w1, b1)
            {between}
            y = Conv<pads = [1,1,1,1]>({read}, w2)
        }}""")
    return graph


def numbers(seed: int) -> str:
    values = np.random.default_rng(seed).normal(size=CHANNELS * CHANNELS * 9)
    return ", ".join(f"{v:.6f}" for v in values)


def quantize(graph: Graph, scales: dict[str, float]) -> None:
    """Q/DQ before each Conv, as the quantize pass writes them."""
    sites = Sites()
    convolutions = [node for node in graph.nodes if node.op == "Conv"]
    for node in convolutions:
        sites.add(node.inputs[0], (node, 0))
    Quantize._activations(graph, Context(), sites, scales, set())
    for node in convolutions:
        node.inputs[1] = _dequantized(graph, node.inputs[1], 0, node.name)
    graph.cleanup()


def answers(graph: Graph, path: Path, feeds: np.ndarray, exact: bool) -> np.ndarray:
    graph.save(path)
    options = ort.SessionOptions()
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": feeds})[0])


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_numbers_are_those_of_the_qdq_graph(relu: bool, spread: float, tmp_path: Path) -> None:
    graph = network(relu)
    feeds = (np.random.default_rng(5).normal(size=(1, CHANNELS, SIZE, SIZE)) * spread).astype(np.float32)
    quantize(graph, {"p": 3.0, "r": 6.0, "c": 6.0})  # clips when the spread is large
    before = answers(graph, tmp_path / "qdq.onnx", feeds, exact=True)
    report = run_unordered([IntegerKernels()], graph, Context())
    assert verify_graph(graph) is None
    assert report["integer-kernels"].statistics["integer layers"] == 1
    after = answers(graph, tmp_path / "integer.onnx", feeds, exact=False)
    step = 6.0 / 127 * np.abs(np.asarray([float(v) for v in numbers(1).split(",")])).max()
    apart = np.abs(after - before)
    assert np.mean(apart > 1e-4) < 0.02  # a bias is rounded to the accumulator's step: few levels move
    assert apart.max() <= 1.01 * step  # and by one


def test_weights_of_signed_inputs_are_unsigned_unless_asked(tmp_path: Path) -> None:
    def types(option: str) -> set[str]:
        graph = network(relu=True)
        first = next(n for n in graph.nodes if n.op == "Conv")
        first.inputs[0] = graph.gs.inputs[0]  # no ReLU before it
        quantize(graph, {"x": 3.0, "r": 6.0})
        run_unordered([IntegerKernels(signed_weights=option)], graph, Context())
        assert verify_graph(graph) is None
        return {np.dtype(n.inputs[3].dtype).name for n in graph.nodes if n.op == "QLinearConv"}

    assert types("uint8") == {"uint8"}
    assert types("int8") == {"int8"}
    with pytest.raises(InputError, match="'int4' is not one of uint8, int8"):
        IntegerKernels(signed_weights="int4")  # type: ignore[arg-type]


class Fours:
    """A range of 4 for every tensor."""

    def ranges(self, graph: Graph, ctx: Context, groups: list[list[str]]) -> Ranges:
        return Ranges({name: 4.0 for group in groups for name in group})


def test_the_detector_gets_integer_convolutions(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    ctx.range_source = Fours()
    run_unordered([Quantize(), IntegerKernels()], graph, ctx)
    assert verify_graph(graph) is None
    kinds = [node.op for node in graph.nodes]
    # the first two of each bottleneck, shortcuts, top lateral, the box head's first layer, the mask head's convolutions
    assert kinds.count("QLinearConv") == 2 * 16 + 4 + 1 + 1 + 4
    assert kinds.count("Gemm") == 3
    stored = [n for n in graph.nodes if n.op == "DequantizeLinear" and isinstance(n.inputs[0], gs.Constant)]
    assert len(stored) == 4  # the FPN's outputs, whose Q stands beside the pooler
    regions = find_regions(graph, ctx)
    assert all(n.name in regions.of or n.op != "QLinearConv" for n in graph.nodes)


def test_only_the_onnxruntime_target_gets_it() -> None:
    def names(target: str) -> list[str]:
        steps = [step.name() for step in default_pipeline(CompileOptions(precision="int8"), target).passes]
        return [name for name in steps if name in ("quantize", "fp16", "integer-kernels")]

    assert names("onnxruntime") == ["quantize", "integer-kernels"]
    assert names("tensorrt-rtx") == names("tensorrt") == ["quantize", "fp16"]
    with pytest.raises(InputError, match="no bf16 kernels"):
        default_pipeline(CompileOptions(precision="bf16"), "onnxruntime")


def test_it_needs_a_quantized_graph(stages: Stages) -> None:
    graph, ctx = stages.after_pass("name-outputs")
    with pytest.raises(PassError, match="requires 'quantized'; no pass of this pipeline provides it"):
        PassManager([IntegerKernels()]).run(graph, ctx)
