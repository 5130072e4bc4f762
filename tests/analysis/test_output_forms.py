"""Exports that give their detections in another form than detectron2: undone where that is exact, else refused by node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.stages import run_unordered
from onnx import helper, numpy_helper

from onnxgraft.detector.output_forms import BOX_LAYOUTS, CORNERS, OutputForm, undone
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.driver.compile import compile
from onnxgraft.errors import OnnxgraftError, ProofError
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions, Options, Size
from onnxgraft.passes import FixInput, RepairRoiAlign, Simplify, UpgradeOpset
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.proof import witness as witnesses
from onnxgraft.proof.prove import prove
from onnxgraft.tools.inspect import inspect

HEIGHT, WIDTH = 256, 320
Change = Callable[[onnx.ModelProto], None]
CONSTANTS = {
    "zero": 0, "one": 1, "two": 2, "four": 4, "five": 5, "last": -1, "start": -(2**62),
    "turned": [1, 0, 3, 2], "both": [0, 1, 2, 3], "centre": [0, 1], "half": np.float32(0.5), "unit": np.float32(1),
    "seventy": 70, "fifty": 50, "table": [*range(70), 71, 70, *range(72, 80)],
    "size": np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32), "swapped": np.array([HEIGHT, WIDTH] * 2, np.float32),
}  # fmt: skip
"""Of int64 where they are no floats; a plain number is an axis, a list an index."""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalog.resolve("retinanet_thin", tmp_path_factory.mktemp("cache"))


def _node(op: str, *inputs: str, to: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [to], name=f"behind-{to}", **attrs)


def _columns(start: str, end: str, to: str, of: str = "boxes") -> onnx.NodeProto:
    return _node("Slice", of, start, end, "one", to=to)


def _sizes(to: str = "sizes") -> list[onnx.NodeProto]:
    return [_columns("zero", "two", "low"), _columns("two", "four", "high"), _node("Sub", "high", "low", to=to)]


def behind(what: str, *nodes: onnx.NodeProto, kind: int | None = None, rank: int | None = None) -> Change:
    """Nodes behind an output, which they read as `what` ("boxes", "scores" or "classes"); the last one's is given instead."""

    def change(model: onnx.ModelProto) -> None:
        old = next(o for o in model.graph.output if _is(o, what))
        shape = [d.dim_value or d.dim_param for d in old.type.tensor_type.shape.dim]
        for node in nodes:
            own = helper.make_node(node.op_type, [], node.output, name=node.name)
            own.CopyFrom(node)
            own.input[:] = [old.name if name == what else name for name in node.input]
            model.graph.node.append(own)
        held = {i.name for i in model.graph.initializer}
        model.graph.initializer.extend(
            numpy_helper.from_array(_constant(v), k) for k, v in CONSTANTS.items() if k not in held
        )  # fmt: skip
        dims = [1] * ((rank or len(shape)) - len(shape)) + shape
        old.CopyFrom(helper.make_tensor_value_info(nodes[-1].output[0], kind or old.type.tensor_type.elem_type, dims))

    return change


def _constant(number: object) -> np.ndarray:
    array = np.asarray(number)
    return array if array.dtype == np.float32 else np.atleast_1d(array).astype(np.int64)


def _is(output: onnx.ValueInfoProto, what: str) -> bool:
    rank, kind = len(output.type.tensor_type.shape.dim), output.type.tensor_type.elem_type
    sides = [d.dim_value for d in output.type.tensor_type.shape.dim]
    return (rank, kind) == {"boxes": (2, 1), "scores": (1, 1), "classes": (1, 7)}[what] and sides != [2]


FORMS = {
    "boxes as x1, y1, width, height": behind("boxes", *_sizes(), _node("Concat", "low", "sizes", to="new", axis=1)),
    "boxes as centre x, centre y, width, height": behind(
        "boxes", *_sizes(), _node("Add", "low", "high", to="sum"), _node("Mul", "sum", "half", to="middle"),
        _node("Concat", "middle", "sizes", to="new", axis=1)),
    "boxes as y1, x1, y2, x2": behind("boxes", _node("Gather", "boxes", "turned", to="new", axis=1)),
    "boxes divided by the image's 256x320": behind("boxes", _node("Div", "boxes", "size", to="new")),
    "boxes as x1, y1, width, height, divided by the image's 256x320, shaped [1, n, 4]": behind(
        "boxes", *_sizes(), _node("Concat", "low", "sizes", to="joined", axis=1), _node("Div", "joined", "size", to="small"),
        _node("Unsqueeze", "small", "zero", to="new"), rank=3),
    "classes counted from 1": behind("classes", _node("Add", "classes", "one", to="new")),
    "classes as float32": behind("classes", helper.make_node("Cast", ["classes"], ["new"], "behind-new", to=1), kind=1),
    "scores shaped [1, n]": behind("scores", _node("Unsqueeze", "scores", "zero", to="new"), rank=2),
}  # fmt: skip


def recognise(model: onnx.ModelProto, path: Path) -> tuple[DetectorSpec, list[str]]:
    onnx.save(model, path)
    graph, ctx = Graph.load(path), Context()
    run_unordered([UpgradeOpset(), RepairRoiAlign(), Simplify(), FixInput(height=HEIGHT, width=WIDTH)], graph, ctx)
    return ctx.spec(), ctx.notes


@pytest.mark.parametrize("words", FORMS)
def test_it_is_recognised_and_said(words: str, export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    FORMS[words](model)
    spec, notes = recognise(model, tmp_path / "other.onnx")
    assert str(spec.output_forms[0]) == words
    assert len(spec.output_forms) == 1
    assert any(words in note for note in notes)


def test_detectron2s_own_form_is_no_other(export: Path, tmp_path: Path) -> None:
    spec, notes = recognise(onnx.load(export), tmp_path / "same.onnx")
    assert spec.output_forms == ()
    assert not any("the export gives" in note for note in notes)


REFUSED = {
    "widths that count a pixel more": (behind(
        "boxes", *_sizes(), _node("Add", "sizes", "unit", to="more"), _node("Concat", "low", "more", to="new", axis=1)),
        "a Add makes the values of output"),
    "divided by height and width the wrong way round": (
        behind("boxes", _node("Div", "boxes", "swapped", to="new")), "a Div makes the values of output"),
    "squared": (behind("boxes", _node("Mul", "boxes", "boxes", to="new")), "a Mul makes the values of output"),
    "classes counted from 5": (
        behind("classes", _node("Add", "classes", "five", to="new")), "classes are counted from 5 here"),
    "rows turned around": (
        behind("boxes", _node("Slice", "boxes", "last", "start", "zero", "last", to="new")), "are reversed here"),
}  # fmt: skip


CLASSES = {
    "by a table": _node("Gather", "table", "classes", to="other"),
    "one as another": _node("Where", "is", "five", "classes", to="other"),
}


@pytest.mark.parametrize("words", CLASSES)
def test_classes_that_become_others_are_no_form(words: str, export: Path, tmp_path: Path) -> None:
    """They agree with detectron2's up to class 69."""
    model = onnx.load(export)
    nodes = _node("Equal", "classes", "seventy", to="is"), CLASSES[words], _node("Add", "other", "one", to="new")
    behind("classes", *nodes)(model)
    with pytest.raises(OnnxgraftError, match=r"classes.*\(node '"):
        recognise(model, tmp_path / "other.onnx")


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_form_is_refused_by_node(words: str, export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    change, reason = REFUSED[words]
    change(model)
    with pytest.raises(OnnxgraftError, match=rf"{reason}.*\(node 'behind-"):
        recognise(model, tmp_path / "other.onnx")


def _all_in_another_form(export: Path, path: Path) -> Path:
    model = onnx.load(export)
    for words in ("boxes as x1, y1, width, height, divided by the image's 256x320, shaped [1, n, 4]", "classes counted from 1",
                  "scores shaped [1, n]"):  # fmt: skip
        _renamed(FORMS[words], words.split()[0])(model)
    onnx.save(model, path)
    return path


def _renamed(change: Change, word: str) -> Change:
    """The same, with names of its own for what it makes."""

    def other(model: onnx.ModelProto) -> None:
        known = len(model.graph.node)
        change(model)
        own = list(model.graph.node)[known:]
        names = {name: f"{word} {name}" for node in own for name in node.output}
        for node in own:
            node.name = f"{word} {node.name}"
            node.input[:] = [names.get(n, n) for n in node.input]
            node.output[:] = [names[n] for n in node.output]
        for output in model.graph.output:
            output.name = names.get(output.name, output.name)

    return other


def test_rows_cut_off_in_front_of_another_form_are_not_lost(export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    cut = [_node("Slice", "boxes", "zero", "fifty", "zero", to="first"), _columns("zero", "two", "low", "first")]
    behind("boxes", *cut, _columns("two", "four", "high", "first"), _node("Sub", "high", "low", to="sizes"),
           _node("Concat", "low", "sizes", to="new", axis=1))(model)  # fmt: skip
    with pytest.raises(OnnxgraftError, match=r"node 'behind-"):
        recognise(model, tmp_path / "cut.onnx")


def test_another_form_beside_detectron2s_own_is_no_form(export: Path, tmp_path: Path) -> None:
    model = onnx.load(export)
    own = onnx.ValueInfoProto()
    own.CopyFrom(next(o for o in model.graph.output if _is(o, "boxes")))
    FORMS["boxes as x1, y1, width, height"](model)
    model.graph.output.append(own)
    with pytest.raises(OnnxgraftError, match="allow-unknown-outputs"):
        recognise(model, tmp_path / "both.onnx")


def test_a_batch_answers_as_the_file(export: Path, tmp_path: Path) -> None:
    """The file answers in its own form for one picture at a time; the build for two at once."""
    other = _all_in_another_form(export, tmp_path / "other.onnx")
    options = Options(size=Size(HEIGHT, WIDTH), target="onnxruntime", batch=2)
    made = compile(str(other), tmp_path / "build", options)
    assert made.proof is not None
    assert made.proof.whole, str(made.proof)
    assert made.proof.matched == made.proof.detections >= 20
    assert any("classes counted from 1" in note for note in made.manifest.notes)
    spec, notes = inspect(other)
    assert {form.role for form in spec.output_forms} == {"boxes", "scores", "classes"}
    assert any("divided by the image's 256x320" in note for note in notes)


@pytest.mark.parametrize("wrong", [{"layout": "centre x, centre y, width, height"}, {"size": None}])
def test_the_proof_tells_a_form_that_was_read_wrongly(wrong: dict[str, object], export: Path, tmp_path: Path) -> None:
    other = _all_in_another_form(export, tmp_path / "other.onnx")
    steps = default_pipeline(CompileOptions(size=Size(HEIGHT, WIDTH)), "onnxruntime").passes
    seen = witnesses.run(other, steps, None)
    assert seen.recognised is not None
    ctx = seen.recognised.ctx
    forms = tuple(dataclasses.replace(f, **wrong) if f.role == "boxes" else f for f in ctx.spec().output_forms)
    ctx.detector = dataclasses.replace(ctx.spec(), output_forms=forms)
    with pytest.raises(ProofError, match="picture 1"):
        prove(other, steps, seen)


@pytest.mark.parametrize("layout", BOX_LAYOUTS)
@pytest.mark.parametrize("size", [None, (256, 320)])
def test_undoing_gives_corners_in_pixels(layout: str, size: tuple[int, int] | None) -> None:
    boxes = np.array([[10, 20, 50, 120], [0, 0, 320, 256]], np.float64)
    x1, y1, x2, y2 = boxes.T
    width, height = (320, 256) if size else (1, 1)
    x1, x2, y1, y2 = x1 / width, x2 / width, y1 / height, y2 / height
    given = {
        CORNERS: [x1, y1, x2, y2], "y1, x1, y2, x2": [y1, x1, y2, x2], "x1, y1, width, height": [x1, y1, x2 - x1, y2 - y1],
        "centre x, centre y, width, height": [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1],
    }[layout]  # fmt: skip
    form = OutputForm("boxes", "given", "taken", layout, size)
    found = undone({"given": np.stack(given, 1).astype(np.float32), "scores": np.zeros(2)}, [form])
    assert sorted(found) == ["scores", "taken"]
    np.testing.assert_allclose(found["taken"], boxes, rtol=1e-5, atol=1e-4)


def test_classes_and_masks_undone() -> None:
    classes = OutputForm("classes", "given", "taken", first=1, kind="float32").undo(np.array([[1.0, 8.0]], np.float32))
    assert classes.tolist() == [0, 7]
    assert classes.dtype == np.int64
    assert OutputForm("masks", "given", "taken", shape="[n, M, M]").undo(np.zeros((5, 28, 28))).shape == (5, 1, 28, 28)


def test_masks_without_their_channel_answer_as_the_file(tmp_path: Path) -> None:
    model = onnx.load(catalog.resolve("mask_rcnn_DC5_thin", tmp_path))
    masks = next(o for o in model.graph.output if len(o.type.tensor_type.shape.dim) == 4)
    model.graph.node.append(helper.make_node("Squeeze", [masks.name, "channel"], ["flat"], name="behind-flat"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "channel"))
    masks.CopyFrom(helper.make_tensor_value_info("flat", 1, ["n", "m", "m"]))
    onnx.save(model, tmp_path / "other.onnx")
    made = compile(str(tmp_path / "other.onnx"), tmp_path / "build", Options(size=Size(HEIGHT, WIDTH), target="onnxruntime"))
    assert made.proof is not None
    assert made.proof.whole, str(made.proof)
    assert made.proof.matched == made.proof.detections >= 20
    assert any("masks shaped [n, M, M]" in note for note in made.manifest.notes)
