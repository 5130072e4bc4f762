"""Files that contradict themselves or ask for too much: each is refused in one line that names the file or the node."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxgraft import Graph, InputError, Refusal
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.folding import settle

BYTES = Path(__file__).resolve().parents[1] / "data" / "bytes"
REASONS = {
    "constant-huge": "constant 'w' has 2 bytes, its shape [1099511627776] needs 4398046511104: truncated?",
    "dims-huge": "initializer 'w' has 4 bytes, its shape [1099511627776] needs 4398046511104: truncated?",
    "dims-many": "initializer 'w' has 5000 dimensions; at most 32 are supported",
    "dims-overflow": "initializer 'w' has 0 bytes, its shape [4294967296,4294967296] needs 73786976294838206464: truncated?",
    "dtype-999": "initializer 'w' is of type 999, which is not supported: store it in another type",
    "dtype-bf16": "initializer 'w' is of type BFLOAT16, which is not supported: store it in another type",
    "dtype-string": "initializer 'w' is of type STRING, which is not supported: store it in another type",
    "external-in-constant-node": "'/etc/passwd', outside the model's folder: refused; move the file beside the model",
    "external-in-subgraph": "'../../etc/passwd', outside the model's folder: refused; move the file beside the model",
    "float-data-none": "initializer 'w' has 0 values, its shape [10] needs 10: truncated?",
    "invalid-utf8-name": "a tensor's name is no UTF-8 text (b'\\xff\\xfe\\x80ab'): not a sound ONNX file",
    "invalid-utf8-op": "operator or tensor is no UTF-8 text (b'\\xff\\xfe\\x80\\x81'): not a sound ONNX file",
    "raw-short": "initializer 'w' has 3 bytes, its shape [10] needs 40: truncated?",
    "sparse": "initializer '' is sparse, which is not supported: store it as a dense tensor",
}


def model_of(nodes: list[onnx.NodeProto], initializers: dict[str, np.ndarray] | None = None, path: Path | None = None) -> Path:
    """A file with an input x [2, 2] and an output y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])
    held = [onnx.numpy_helper.from_array(value, name) for name, value in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    assert path is not None
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_every_case_has_a_reason() -> None:
    assert {path.stem for path in BYTES.glob("*.onnx")} == {*REASONS, "fold-constantofshape"}


@pytest.mark.parametrize("name", REASONS)
def test_malformed_files(name: str) -> None:
    with pytest.raises(InputError) as refused:
        Graph.load(BYTES / f"{name}.onnx")
    assert str(refused.value).startswith(f"{BYTES / name}.onnx: ")
    assert str(refused.value).endswith(REASONS[name])


@pytest.mark.parametrize("count", [8, 8000])  # held in memory, and left on disk
@pytest.mark.parametrize(
    ("kind", "bits"),
    [(TensorProto.FLOAT8E4M3FN, 8), (TensorProto.FLOAT8E5M2, 8), (TensorProto.INT4, 4), (TensorProto.BFLOAT16, 16)],
)
def test_types_that_numpy_lacks(kind: int, bits: int, count: int, tmp_path: Path) -> None:
    path = model_of([helper.make_node("Relu", ["x"], ["y"])], path=tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(TensorProto(name="w", data_type=kind, dims=[count], raw_data=bytes(count * bits // 8)))
    onnx.save(model, path)
    with pytest.raises(InputError, match=f"initializer 'w' is of type {TensorProto.DataType.Name(kind)}, which is not"):
        Graph.load(path)


@pytest.mark.parametrize("kind", [TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.BFLOAT16])
def test_inputs_of_types_that_no_image_has(kind: int, tmp_path: Path) -> None:
    path = model_of([onnx.helper.make_node("Identity", ["x"], ["y"])], path=tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = kind
    onnx.save(model, path)
    with pytest.raises(InputError, match=f"input 'x' is of type {TensorProto.DataType.Name(kind)}, which is not supported"):
        Graph.load(path)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("a" * 5000, "which is no usable path: file name too long"),
        ("loop", "which is no usable path: "),
        ("a\0b", "which is no usable path: "),
    ],
)
def test_locations_that_are_no_path(location: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop2")
    (tmp_path / "loop2").symlink_to("loop")
    path = model_of([helper.make_node("Relu", ["x"], ["y"])], path=tmp_path / "m.onnx")
    model = onnx.load(path)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as refused:
        Graph.load(path)
    assert reason in str(refused.value) or (location == "loop" and "does not exist" in str(refused.value))
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("listed", [True, False])
def test_an_image_that_is_an_initializer(listed: bool, tmp_path: Path) -> None:
    path = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": np.zeros((2, 2), np.float32)}, tmp_path / "m.onnx")
    model = onnx.load(path)
    if not listed:
        del model.graph.input[:]
    onnx.save(model, path)
    with pytest.raises(InputError, match="the graph has no input, so no image can come in"):
        Graph.load(path)


def test_folding_is_bounded_by_the_file() -> None:
    graph = Graph.load(BYTES / "fold-constantofshape.onnx")
    with pytest.raises(Refusal, match=r"would take 38147 MiB, .* at most 1024 MiB .*: --bounds 38 allows it \(node 'Const"):
        settle(graph)
    allowed = Graph.load(BYTES / "fold-constantofshape.onnx", Bounds.times(38))
    assert allowed.bytes_to_fold == 38 * 1024 * 2**20


@pytest.mark.parametrize("hidden", [True, False])
def test_a_size_that_is_computed_is_bounded_too(hidden: bool, tmp_path: Path) -> None:
    """The shape is folded first, then what has it is weighed; products of products are weighed as well."""
    if hidden:
        nodes = [helper.make_node("Mul", ["n", "n"], ["shape"]), helper.make_node("ConstantOfShape", ["shape"], ["big"])]
        held = {"n": np.array([1 << 10, 1 << 10], np.int64)}
    else:
        nodes = [helper.make_node("Reshape", ["n", "column"], ["big0"])]
        held = {"n": np.ones(16, np.float32), "column": np.array([-1, 1], np.int64), "row": np.array([1, -1], np.int64)}
        for index in range(4):  # 16, 16^2, 16^4, 16^8, 16^16 numbers
            nodes += [
                helper.make_node("Reshape", [f"big{index}", "row"], [f"row{index}"]),
                helper.make_node("Reshape", [f"big{index}", "column"], [f"column{index}"]),
                helper.make_node("Mul", [f"row{index}", f"column{index}"], [f"big{index + 1}"]),
            ]
        nodes.append(helper.make_node("Identity", ["big4"], ["big"]))
    nodes += [helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0), helper.make_node("Add", ["x", "most"], ["y"])]
    graph = Graph.load(model_of(nodes, held, tmp_path / "m.onnx"))
    with pytest.raises(Refusal, match="ahead of time would take"):
        settle(graph)


def test_sizes_that_values_decide_are_folded_still(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["mask"], ["where"]), helper.make_node("Gather", ["where", "zero"], ["first"]),
        helper.make_node("OneHot", ["first", "depth", "values"], ["hot"]), helper.make_node("Cast", ["hot"], ["number"], to=1),
        helper.make_node("ReduceSum", ["number"], ["sum"], keepdims=0), helper.make_node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    held = {
        "mask": np.array([0, 1, 1], np.float32), "zero": np.array(0, np.int64), "depth": np.array(3, np.int64),
        "values": np.array([0, 2], np.int64),
    }  # fmt: skip
    graph = Graph.load(model_of(nodes, held, tmp_path / "m.onnx"))
    settle(graph)
    assert [node.op for node in graph.nodes] == ["Add"]
    assert float(graph.nodes[0].inputs[1].values) == 4.0


def test_bounds_of_nodes_and_depth(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x" if i == 0 else f"t{i}"], [f"t{i + 1}"]) for i in range(9)]
    path = model_of([*nodes, helper.make_node("Relu", ["t9"], ["y"])], path=tmp_path / "m.onnx")
    assert len(Graph.load(path, Bounds(nodes=10)).nodes) == 10
    with pytest.raises(Refusal, match="the model has more than 9 nodes; --bounds 2 allows twice as many"):
        Graph.load(path, Bounds(nodes=9))
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["i"])], "i", [], [helper.make_empty_tensor_value_info("i")])
    for _ in range(17):
        node = helper.make_node("If", ["c"], ["i"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], "i", [], [helper.make_empty_tensor_value_info("i")])
        del node.attribute[1]
    with pytest.raises(Refusal, match="more than 16 deep"):
        Graph.load(model_of([*inner.node, helper.make_node("Relu", ["i"], ["y"])], path=tmp_path / "deep.onnx"))


@pytest.mark.parametrize("kind", ["chain", "fan"])
def test_identities_cost_linear_time(kind: str, tmp_path: Path) -> None:
    """Twelve times as many take about twelve times as long, not 144 times; half of that is allowed for noise."""

    def seconds(count: int) -> float:
        names = ["x", *(f"t{i}" for i in range(count))]
        nodes = [helper.make_node("Identity", [names[i] if kind == "chain" else "x"], [names[i + 1]]) for i in range(count)]
        nodes.append(helper.make_node("Sum", names[-1:] if kind == "chain" else names[1:], ["y"]))
        graph = Graph.load(model_of(nodes, path=tmp_path / "m.onnx"))
        started = time.process_time()
        settle(graph)
        assert [node.op for node in graph.nodes] == ["Sum"]
        return time.process_time() - started

    small, large = min(seconds(500) for _ in range(3)), seconds(6000)
    assert large < 72 * small


def test_a_ring_of_identities(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    graph = Graph.load(model_of([*nodes, helper.make_node("Add", ["x", "a"], ["y"])], path=tmp_path / "m.onnx"))
    with pytest.raises(Refusal, match="the graph has a cycle"):
        settle(graph)
