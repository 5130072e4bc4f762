"""Bad input on the command line: a non-zero exit code, one line that says what is wrong, and nothing half-written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from helpers.cli import assert_one_line_error, cli
from helpers.graphs import parse_graph
from PIL import Image

from onnxgraft.cli.main import main
from onnxgraft.driver.compile import compile
from onnxgraft.options import Options

Refused = Callable[..., str]


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Refused:
    """Run a command that must be refused, in an empty folder; gives the one line without "error: "."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["onnxgraft", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert end.value.code == 1
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert "Traceback" not in out + err
        assert sorted(tmp_path.rglob("*")) == before
        return err.removeprefix("error: ").rstrip("\n")

    return run


def test_files_that_are_no_model(refused: Refused, golden_model: Path, tmp_path: Path) -> None:
    whole = golden_model.read_bytes()
    contents = {
        "half": (whole[: len(whole) // 2], f"truncated or not ONNX: a field reaches past the file's {len(whole) // 2} bytes"),
        "start": (whole[:100], "truncated or not ONNX: a field reaches past the file's 100 bytes"),
        "last": (whole[:-1], f"truncated or not ONNX: a field reaches past the file's {len(whole) - 1} bytes"),
        "words": (b"hello world\n" * 50, "not an ONNX file (unknown wire type 4)"),
        "empty": (b"", "the file is empty"),
        "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not an ONNX file (unknown wire type 7)"),
        "zeros": (bytes(5000), "not an ONNX"),
    }
    for name, (data, reason) in contents.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        for command in (("build", path, "-o", "out"), ("inspect", path)):
            assert refused(*command).startswith(f"{path}: {reason}"), name


def test_no_file_and_no_name(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    assert refused("build", "gone.onnx") == "gone.onnx: no such file"
    assert refused("inspect", "folder.onnx") == "folder.onnx: is a folder; give an .onnx file"
    assert refused("build", "mask_rnn") == "'mask_rnn' is neither a file nor a golden graph; did you mean 'mask_rcnn'?"
    line = refused("build", "yolo")
    assert line.startswith("'yolo' is neither a file nor a golden graph (golden graphs: ")
    assert ", mask_rcnn, " in line


def external(golden_model: Path, location: str, path: Path) -> Path:
    """The golden model with its largest weight in another file."""
    model = onnx.load(golden_model)
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.name = tensor.name.replace(tensor.name, "the.weight")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value=str(length))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("gone.bin", "'gone.bin', which does not exist: copy it beside the model"),
        ("../secret.bin", "'../secret.bin', outside the model's folder: refused; move the file beside the model"),
        ("/etc/hostname", "'/etc/hostname', outside the model's folder: refused; move the file beside the model"),
        ("link.bin", "'link.bin', outside the model's folder: refused; move the file beside the model"),
        ("short.bin", "'short.bin' up to byte 3211264, but that file has 3 bytes: truncated?"),
    ],
)
def test_external_data(location: str, reason: str, refused: Refused, golden_model: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4_000_000))
    (tmp_path / "inner" / "short.bin").write_bytes(b"123")
    (tmp_path / "inner" / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = external(golden_model, location, tmp_path / "inner" / "model.onnx")
    assert refused("build", path, "-o", "out") == f"{path}: tensor 'the.weight' keeps its data in {reason}"


def test_a_model_that_is_no_detector(refused: Refused, tmp_path: Path) -> None:
    parse_graph("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[3,64,64] x, float[4,3,3,3] w) => (float[1,4,64,64] y) {
            axes = Constant<value = int64[1] {0}>()
            image = Unsqueeze(x, axes)
            features = Conv<pads=[1,1,1,1]>(image, w)
            y = Relu(features)
        }
    """).save(tmp_path / "net.onnx")
    reason = ("no family of detectron2: neither boxes pooled by RoiAlign, nor classified boxes that are suppressed; this "
              "model has Conv, Relu, Unsqueeze: is it a detector's export?")  # fmt: skip
    assert refused("inspect", tmp_path / "net.onnx") == reason


def test_sizes(refused: Refused) -> None:
    assert refused("build", "mask_rcnn", "--size", "100x320", "-o", "out") == (
        "fix-input: height 100 is not a multiple of 32; take 96"
    )
    assert refused("build", "mask_rcnn", "--size", "big", "-o", "out") == "--size: 'big' is not HEIGHTxWIDTH, such as 1344x1344"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--passes", "simplfy"], "there is no pass 'simplfy'; did you mean 'simplify'?"),
        (["--passes", "simplify{x=1}"], "pass 'simplify' has no option 'x=1'; options: none"),
        (["--passes", "fix-input{height=tall}"], "fix-input{height}: 'tall' is not a whole number"),
        (["--passes", "simplify;;"], "pipeline: cannot read 'simplify;;'; write passes as name or name{option=value,...}, "
                                     "separated by commas"),
        (["--passes", "box-nms,simplify"], "pass 'box-nms': requires 'pooled'; no pass of this pipeline provides it"),
        (["--passes", "fix-input,simplify"], "pass 'fix-input': requires 'simplified'; simplify provides it, but comes later"),
        (["--skip", "inject-anchors"], "pass 'decode-boxes': requires 'anchors'; no pass of this pipeline provides it"),
        (["--skip", "polish"], "pipeline has no pass 'polish'; it has upgrade-opset, repair-roi-align"),
        (["--stop-after", "polish"], "pipeline has no pass 'polish'; it has upgrade-opset, repair-roi-align"),
        (["--print-after", "simplfy"], "pipeline has no pass 'simplfy'; it has upgrade-opset, repair-roi-align"),
        (["--load", "gone.py"], "gone.py: no such file to load passes from"),
        (["--precision", "fp8"], "--precision: 'fp8' is not one of fp32, fp16, bf16, int8"),
        (["--target", "cuda"], "there is no target 'cuda': give one of tensorrt, tensorrt-rtx, onnxruntime, auto"),
    ],
)  # fmt: skip
def test_options(arguments: list[str], reason: str, refused: Refused) -> None:
    assert refused("build", "mask_rcnn", "-o", "out", *arguments).startswith(reason)


@pytest.mark.parametrize("code", ["raise ValueError('boom')", "x = 1", "syntax error"])
def test_files_of_passes(code: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    reason = "defines no Pass" if code == "x = 1" else "cannot be loaded: "
    assert refused("build", "mask_rcnn", "--load", "mine.py", "-o", "out").startswith(f"mine.py: {reason}")


def test_places_for_the_result(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    assert refused("build", "mask_rcnn", "-o", "file").endswith("/file: is a file; give a folder for the build (-o)")
    assert refused("build", "mask_rcnn", "-o", "folder").endswith(
        "/folder: holds files that are no build; give an empty or a new folder (-o)"
    )
    assert refused("build", "mask_rcnn", "-o", "file/sub").endswith("/file/sub: cannot be written: file exists")


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_folders_that_are_no_build(command: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place in ("nowhere", "folder"):
        assert refused(command, place) == f"{place}: no build (it has no manifest.json)"


def test_a_build_is_no_model_and_a_model_no_build(refused: Refused, conv_net: Path, tmp_path: Path) -> None:
    compile("mask_rcnn", tmp_path / "out", Options(size=(96, 96), target="onnxruntime", proof=False, checks=False))
    again = "it was built from mask_rcnn: give that to build it anew"
    made = "is what a build made, not a model that detectron2 exported"
    assert refused("build", "out") == f"out: is a build, not a model; {again}"
    assert refused("build", "out/model.onnx", "-o", "new") == f"out/model.onnx: {made}; {again}"
    assert refused("inspect", "out/model.onnx") == f"out/model.onnx: {made}; {again}"
    wanted = "is a model, and a build is wanted: onnxgraft build"
    for command in (["infer"], ["verify"], ["bench"]):
        words = [*command, conv_net, *([conv_net] if command == ["infer"] else [])]
        assert refused(*words) == f"{conv_net}: {wanted} {conv_net} -o out, then give out"


def test_pictures_and_annotations_in_the_wrong_place(refused: Refused, conv_net: Path, tmp_path: Path) -> None:
    compile("mask_rcnn", tmp_path / "out", Options(size=(96, 96), target="onnxruntime", proof=False, checks=False))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a.png")
    picture = "is a picture, not a model; give an .onnx file here, and pictures to infer or --images"
    assert refused("build", "images/a.png") == f"images/a.png: {picture}"
    assert refused("infer", "images", "images/a.png") == "images: no build (it has no manifest.json)"

    def annotated(name: str, count: int, words: str) -> str:
        categories = [{"id": i, "name": f"{words}{i}"} for i in range(count)]
        images = [{"id": 1, "file_name": name, "height": 64, "width": 64}]
        (tmp_path / "t.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
        return refused("eval", "out", "--images", "images", "--annotations", "t.json")

    assert annotated("a.png", 80, "c") == "t.json: has 80 categories, but the network has 5 classes"
    assert annotated("a.png", 5, "c") == "t.json: is of other classes (c0, c1, c2) than the network (disc, square, triangle)"
    assert annotated("gone.png", 5, "c") == "images/gone.png: not there, but t.json annotates it"
    wrong = refused("eval", "out", "--images", "images", "--annotations", "images/a.png")
    assert wrong.startswith("images/a.png: no COCO instances")


def test_int8_needs_pictures_before_any_pass(refused: Refused, golden_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    asked = ("build", golden_model, "--precision", "int8", "-o", "out")
    assert refused(*asked) == "int8 needs calibration images: give --calib DIR (about 100 pictures like those it will see)"
    assert refused(*asked, "--calib", "gone") == "gone: no such folder of images or calibration file"
    assert refused(*asked, "--calib", "empty") == (
        "empty: holds no images; calibration needs some (about 100 are enough)"
    )


def test_without_a_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert_one_line_error(cli("build", "gone.onnx", cwd=tmp_path), "gone.onnx: no such file")
    assert list(tmp_path.iterdir()) == []


LEAVES_NON_ZERO = '''
from dataclasses import dataclass
import numpy as np
from onnxgraft import Builder, Pass, Role

@dataclass(frozen=True, kw_only=True)
class LeaveNonZero(Pass):
    """Make the scores depend on a NonZero, which TensorRT for RTX does not take."""
    requires = ("named-outputs",)

    def run(self, graph, ctx):
        scores = graph.tensor("detection_scores")
        b = Builder(graph, "planted", [scores.inputs[0].name])
        scores.name = "raw_scores"
        found = b.op("NonZero", [scores], "found", dtype=np.int64)
        first = b.op("ReduceMax", [found], "most", dtype=np.int64, keepdims=0)
        zero = b.op("Mul", [b.op("Cast", [first], "float", to=1), b.floats("zero", 0.0)], "nothing")
        result = b.op("Add", [scores, zero], "result", shape=list(scores.shape))
        result.name = "detection_scores"
        ctx.values.results[Role.SCORES] = result.name
        graph.gs.outputs[:] = [result if t is scores else t for t in graph.gs.outputs]
'''


@pytest.mark.slow
def test_what_rtx_refuses_names_nvidias_words_the_node_and_the_pass(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LEAVES_NON_ZERO)
    passes = ("upgrade-opset,simplify,fix-input{height=64,width=96},normalize-input,inject-anchors,decode-boxes,rpn-nms,"
              "roi-align,box-nms,mask-head,name-outputs,leave-non-zero,lower-plugins{target=tensorrt-rtx}")  # fmt: skip
    line = refused("build", "mask_rcnn", "--target", "tensorrt-rtx", "--load", "mine.py", "--no-checks", "--passes", passes,
                   "-o", "out")  # fmt: skip
    assert "NonZero node 'planted/NonZero:found'" in line
    assert "made by pass 'leave-non-zero'" in line
    assert "NonZero plugin creator version 1 was not found" in line
    print(line)
