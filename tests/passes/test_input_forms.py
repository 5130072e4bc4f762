"""Exports whose image has another form than a float picture [3, H, W] of 0..255 compile to the same detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.stages import run_unordered
from onnx import TensorProto, helper, numpy_helper

from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.driver.compile import compile
from onnxgraft.errors import OnnxgraftError
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import Options, Size
from onnxgraft.passes import FixInput, RepairRoiAlign, Simplify, UpgradeOpset
from onnxgraft.pipeline.context import Context
from onnxgraft.tools.inspect import inspect

HEIGHT, WIDTH = 256, 320


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog.resolve("faster_rcnn_C4_thin", tmp_path_factory.mktemp("cache"))


def in_front(kind: int, shape: list[int], *nodes: onnx.NodeProto, **constants: np.ndarray) -> Callable[[onnx.ModelProto], None]:
    """An input "given" of another form, which `nodes` turn into the picture "picture" that the export takes."""

    def change(model: onnx.ModelProto) -> None:
        (image,) = model.graph.input
        for node in model.graph.node:
            node.input[:] = ["picture" if name == image.name else name for name in node.input]
        image.CopyFrom(helper.make_tensor_value_info("given", kind, shape))
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
        for node in reversed(nodes):
            model.graph.node.insert(0, node)

    return change


def node(op: str, *inputs: str, output: str = "picture", **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], name=f"in-front-{op}", **attrs)


FORMS = {
    "a batch of one": in_front(1, [1, 3, HEIGHT, WIDTH], node("Gather", "given", "zero", axis=0), zero=np.int64(0)),
    "integers": in_front(TensorProto.UINT8, [3, HEIGHT, WIDTH], node("Cast", "given", to=1)),
    "channels last": in_front(TensorProto.UINT8, [HEIGHT, WIDTH, 3], node("Transpose", "given", output="moved", perm=[2, 0, 1]),
                              node("Cast", "moved", to=1)),
    "levels of 0..1": in_front(1, [3, HEIGHT, WIDTH], node("Mul", "given", "most"), most=np.float32(255)),
}  # fmt: skip


def recognise(model: onnx.ModelProto, path: Path) -> DetectorSpec:
    onnx.save(model, path)
    graph, ctx = Graph.load(path), Context()
    steps = [UpgradeOpset(), RepairRoiAlign(), Simplify(), FixInput(height=HEIGHT, width=WIDTH)]
    run_unordered(steps, graph, ctx)
    return ctx.spec()


@pytest.mark.parametrize("form", FORMS)
def test_the_picture_is_found_behind_it(form: str, export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    usual = recognise(model, tmp_path / "usual.onnx").image
    FORMS[form](model)
    found = recognise(model, tmp_path / "other.onnx").image
    assert (found.height, found.width, found.order) == (usual.height, usual.width, usual.order)
    np.testing.assert_allclose(found.mean, usual.mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, usual.std, rtol=1e-6)


def test_arithmetic_on_integers_is_refused(export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    halves = in_front(TensorProto.UINT8, [3, HEIGHT, WIDTH], node("Div", "given", "two", output="half"),
                      node("Cast", "half", to=1), two=np.uint8(2))  # fmt: skip
    halves(model)
    with pytest.raises(OnnxgraftError, match=r"this Div calculates with the image's integers.*\(node 'in-front-Div'\)"):
        recognise(model, tmp_path / "other.onnx")


RGB = {
    "by a gather": in_front(1, [3, HEIGHT, WIDTH], node("Gather", "given", "back", axis=0), back=np.array([2, 1, 0])),
    "by a flip": in_front(
        1, [3, HEIGHT, WIDTH], node("Slice", "given", "last", "end", "axes", "steps"), last=np.array([-1]),
        end=np.array([-(2**62)]), axes=np.array([0]), steps=np.array([-1]),
    ),
    "of integers": in_front(
        TensorProto.UINT8, [3, HEIGHT, WIDTH], node("Slice", "given", "last", "end", "axes", "steps", output="turned"),
        node("Cast", "turned", to=1), last=np.array([-1]), end=np.array([-(2**62)]), axes=np.array([0]), steps=np.array([-1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", RGB)
def test_channels_that_the_export_turns_around_are_turned_back(form: str, export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    usual = recognise(model, tmp_path / "usual.onnx").image
    RGB[form](model)
    found = recognise(model, tmp_path / "other.onnx").image
    assert (usual.order, usual.exported_order) == ("BGR", "BGR")
    assert (found.order, found.exported_order, found.reversed) == ("BGR", "RGB", True)
    np.testing.assert_allclose(found.mean, usual.mean, rtol=1e-6)


def test_turned_channels_of_a_grey_mean_are_refused(export: Path, tmp_path: Path) -> None:
    """Nothing tells whether the network reads BGR or RGB then: a guess would swap them in silence."""
    model = onnx.load(export)
    grey = np.full((3, 1, 1), 127.5, np.float32)
    held = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute] + list(model.graph.initializer)
    means = [t for t in held if list(t.dims) == [3, 1, 1] and numpy_helper.to_array(t).max() > 100]
    assert len(means) == 1
    means[0].CopyFrom(numpy_helper.from_array(grey, means[0].name))
    assert recognise(model, tmp_path / "usual.onnx").image.order_known is False
    RGB["by a gather"](model)
    with pytest.raises(OnnxgraftError, match=r"its mean does not tell which order.*\(node 'in-front-Gather'\)"):
        recognise(model, tmp_path / "other.onnx")


def test_several_images_at_once_are_refused_with_what_to_do(export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    in_front(1, [4, 3, HEIGHT, WIDTH], node("Gather", "given", "zero", axis=0), zero=np.int64(0))(model)
    with pytest.raises(OnnxgraftError, match=r"takes 4 images at once: export it for one.*\(node 'in-front-Gather'\)"):
        recognise(model, tmp_path / "other.onnx")


BUILT = {
    "channels last, integers, turned around": (in_front(
        TensorProto.UINT8, [1, HEIGHT, WIDTH, 3], node("Gather", "given", "back", output="turned", axis=3),
        node("Transpose", "turned", output="moved", perm=[0, 3, 1, 2]), node("Cast", "moved", output="float", to=1),
        node("Gather", "float", "zero", axis=0), back=np.array([2, 1, 0]), zero=np.int64(0)),
        "the export takes uint8 [1, 256, 320, 3], RGB, levels of 0..255"),
    "channels taken apart": (in_front(
        1, [1, 3, HEIGHT, WIDTH], node("Gather", "given", "two", output="b", axis=1),
        node("Gather", "given", "one", output="g", axis=1), node("Gather", "given", "zero", output="r", axis=1),
        node("Concat", "b", "g", "r", axis=0), zero=np.int64(0), one=np.int64(1), two=np.int64(2)),
        "the export takes float32 [1, 3, 256, 320], RGB, levels of 0..255"),
}  # fmt: skip


@pytest.mark.parametrize("form", BUILT)
def test_a_batch_of_them_answers_as_the_file(form: str, tmp_path: Path) -> None:
    """The file is fed in its own form, one picture at a time; the build takes two in the one form that builds have."""
    model = onnx.load(catalog.resolve("retinanet_thin", tmp_path))
    change, said = BUILT[form]
    change(model)
    onnx.save(model, tmp_path / "other.onnx")
    options = Options(size=Size(HEIGHT, WIDTH), target="onnxruntime", batch=2)
    made = compile(str(tmp_path / "other.onnx"), tmp_path / "build", options)
    assert made.proof is not None
    assert made.proof.whole, str(made.proof)
    assert made.proof.matched == made.proof.detections >= 20
    assert [note for note in made.manifest.notes if said in note]


def test_a_picture_resized_inside_is_told_as_torchvisions(export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    image = model.graph.input[0].name
    for reader in (n for n in model.graph.node if n.op_type == "Unsqueeze" or image in n.input):
        resized = node("Resize", "four", "", "", "sizes", output="resized", mode="linear")
        reader.input[:] = ["picture" if name == image else name for name in reader.input]
    model.graph.node.insert(0, node("Gather", "resized", "zero", axis=0))
    model.graph.node.insert(0, resized)
    model.graph.node.insert(0, node("Unsqueeze", image, "axis", output="four"))
    constants = {"zero": np.int64(0), "axis": np.array([0]), "sizes": np.array([1, 3, HEIGHT // 2, WIDTH // 2])}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in constants.items())
    with pytest.raises(OnnxgraftError, match=r"as torchvision's detectors do.*\(node 'in-front-Resize'\)"):
        recognise(model, tmp_path / "other.onnx")


def test_an_image_that_is_not_normalised_is_said(export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    usual = recognise(model, tmp_path / "usual.onnx").image
    std, mean = (np.array(v, np.float32).reshape(3, 1, 1) for v in (usual.std, usual.mean))
    in_front(1, [3, HEIGHT, WIDTH], node("Mul", "given", "std", output="wide"), node("Add", "wide", "mean"),
             std=std, mean=mean)(model)  # fmt: skip
    onnx.save(model, tmp_path / "other.onnx")
    graph, ctx = Graph.load(tmp_path / "other.onnx"), Context()
    run_unordered([UpgradeOpset(), RepairRoiAlign(), Simplify(), FixInput(height=HEIGHT, width=WIDTH)], graph, ctx)
    assert any("the graph normalises nothing" in note for note in ctx.notes)


def test_inspect_names_the_form(export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    RGB["of integers"](model)
    onnx.save(model, tmp_path / "other.onnx")
    spec, notes = inspect(tmp_path / "other.onnx")
    assert spec.image.exported_order == "RGB"
    assert any("the export takes uint8 [3, 256, 320], RGB, levels of 0..255" in note for note in notes)
