"""bench --floor: multiply-adds and bytes of a compiled graph, and the least time of each part on named GPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from onnxgraft.driver.compile import compile
from onnxgraft.errors import InputError
from onnxgraft.options import Options, Size
from onnxgraft.runtime.session import Session
from onnxgraft.tools.benchmark.costs import Cost, costs
from onnxgraft.tools.benchmark.end_to_end import STEPS, end_to_end
from onnxgraft.tools.benchmark.floor import Floor, floor
from onnxgraft.tools.benchmark.gpus import GPUS, Gpu
from onnxgraft.tools.benchmark.process import Rows

NETWORK = """
<ir_version: 9, opset_import: ["" : 19]>
net (float[1,8,10,12] x, float[1,16,5,6] skip) => (float[1,16,5,6] y, float[1,480,2] z)
<float[16,4,3,3] w, float[2,1] v, int64[3] shape = {1, 480, 1}>
{
    a = Conv <strides = [2, 2], pads = [1, 1, 1, 1], group = 2> (x, w)
    b = Relu (a)
    y = Add (b, skip)
    c = Reshape (y, shape)
    vt = Transpose (v)
    z = MatMul (c, vt)
}
"""


def graph(text: str) -> gs.Graph:
    return gs.import_onnx(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def by_op(made: gs.Graph, network: set[str], **more: dict[str, int]) -> dict[str, Cost]:
    for index, node in enumerate(made.nodes):
        node.name = f"{node.op}{index}"
    found = {cost.node: cost for cost in costs(made, network, {}, **more)}  # type: ignore[arg-type]
    return {node.op: found[node.name] for node in made.nodes}


def test_a_layer_counts_what_it_multiplies_and_moves() -> None:
    made = graph(NETWORK)
    found = by_op(made, {f"{node.op}{i}" for i, node in enumerate(made.nodes)})
    conv = found["Conv"]
    assert conv.macs == 16 * 5 * 6 * 4 * 9
    assert conv.size == 4 * (8 * 10 * 12 + 16 * 4 * 9 + 16 * 5 * 6)
    assert (found["Relu"].size, found["Reshape"].size) == (0, 0)
    assert found["Add"].size == 4 * 16 * 5 * 6  # the skip connection; the other operand was just computed
    assert found["MatMul"].macs == 480 * 1 * 2


def test_quantized_layers_read_and_write_bytes() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 4, 4])
    scale = onnx.numpy_helper.from_array(np.float32(0.1), "s")
    weight = onnx.numpy_helper.from_array(np.ones((8, 8, 1, 1), np.int8), "w")
    zero = onnx.numpy_helper.from_array(np.int8(0), "z")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]), helper.make_node("Conv", ["xd", "wd"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]), helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["y"]),
    ]  # fmt: skip
    made = helper.make_graph(nodes, "q", [x], [y], [scale, weight, zero])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)])
    found = by_op(gs.import_onnx(onnx.shape_inference.infer_shapes(model)), set())["Conv"]
    assert (found.type, found.macs, found.weighted) == ("int8", 8 * 8 * 16, True)
    assert found.size == 8 * 16 + 64 + 8 * 16


def test_a_gpu_needs_the_longer_of_computing_and_moving() -> None:
    gpu = Gpu("one", fp32=1, fp16=2, int8=4, memory=1)
    assert gpu.seconds("fp32", 1e12, 0) == 2
    assert gpu.seconds("int8", 1e12, 0) == 0.5
    assert gpu.seconds("fp16", 1e12, 3e9) == 3


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("floor") / "out"
    options = Options(size=Size(256, 320), target="tensorrt-rtx", engine=False, checks=False, proof=False)
    compile("mask_rcnn_dconv_thin", out, options)
    return out


@pytest.fixture(scope="module")
def native(build: Path) -> tuple[Rows, Rows, Floor]:
    return floor(build)


def test_it_runs_in_its_form_with_functions(build: Path) -> None:
    """The native form would be slower here; its answers are the same."""
    assert (build / "runnable.onnx").is_file()
    native, runnable = (onnx.load(build / name, load_external_data=False) for name in ("model.onnx", "runnable.onnx"))
    assert not native.functions
    assert {function.name for function in runnable.functions} >= {"EfficientNMS_TRT", "PyramidROIAlign_TRT"}
    assert Session(build).manifest.runnable == "runnable.onnx"


def test_every_part_of_a_build_is_told(native: tuple[Rows, Rows, Floor]) -> None:
    what, times, found = native
    parts = [row[0] for row in what[1:]]
    assert parts == ["backbone", "fpn", "rpn", "selection", "NMS", "pooling", "box-head", "mask-head"]
    assert [row[0] for row in times[1:]] == [gpu.name for gpu in GPUS]
    assert times[0][1:-2] == tuple(parts)
    for gpu in GPUS:
        assert 0 < found.weighted(gpu) < sum(found.seconds(gpu, part) for part in parts)


def test_trips_of_loops_are_counted(native: tuple[Rows, Rows, Floor]) -> None:
    _, _, found = native
    assert found.counted
    assert set(found.trips) == {"NMS", "pooling"}
    assert found.trips["NMS"] > 3  # an RPN's fixed point, the blocks of the detections, and theirs
    assert found.trips["pooling"] >= 2 * 4


def test_every_step_of_a_picture_is_timed(build: Path) -> None:
    heading, *rows = end_to_end(build, (1, 2), repeat=2)
    assert heading[1:] == ("1 picture", "2 pictures")
    assert [row[0] for row in rows[: len(STEPS)]] == list(STEPS)
    assert [row[0].partition(",")[0] for row in rows[len(STEPS) :][:3]] == ["all of them", "infer", "eval"]
    assert [row[0].rpartition(": ")[2] for row in rows[-3:]] == ["infer", "eval", "one after the other"]
    for column in (1, 2):
        steps = sum(float(row[column]) for row in rows[: len(STEPS)])
        assert steps == pytest.approx(float(rows[len(STEPS)][column]), abs=0.5)
        assert 0 < float(rows[-1][column]) < 1


def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        floor(tmp_path)
