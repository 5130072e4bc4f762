"""manifest.json, times.json and report.json: what is written is what is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from helpers.small_models import MODEL

from onnxgraft import InputError, Options, compile
from onnxgraft.detector.panoptic import Combine
from onnxgraft.files import plain
from onnxgraft.manifest import GraphIO, ImageIO, Manifest, PassTime, Preprocess, Source, TensorIO, Times
from onnxgraft.report.reader import read_run
from onnxgraft.runtime.session import Session

IO = GraphIO(
    ImageIO("input_tensor", (2, 64, 96, 3), "uint8", "NHWC", "RGB"), True, TensorIO("proposals", (2, 50, 4)),
    {"num_detections": (2, 1), "semantic_logits": (2, 5, 16, 24)}, "normalized",
)  # fmt: skip
FULL = Manifest(
    onnxgraft="1", source=Source("m.onnx", "ab", 16), target="tensorrt", precision="int8", calibration={"images": 3},
    runnable="runnable.onnx", engine="model.engine", io=IO, preprocess=Preprocess((1.0, 2.0, 3.0), order="RGB"),
    class_names=("a", "b"), panoptic=Combine(0.25, 7, 0.5), spec={"family": "x"}, notes=("n",), sizes={"model.onnx": 1},
)  # fmt: skip
LEAST = Manifest(runnable="model.onnx", io=GraphIO(), preprocess=Preprocess())


@pytest.mark.parametrize("manifest", [FULL, LEAST])
def test_a_manifest_comes_back_as_it_was(manifest: Manifest, tmp_path: Path) -> None:
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


def test_its_keys_are_those_that_programs_know() -> None:
    content = json.loads(json.dumps(plain(FULL)))
    assert content["io"] == {
        "input": {"name": "input_tensor", "shape": [2, 64, 96, 3], "dtype": "uint8", "layout": "NHWC", "order": "RGB"},
        "image_sizes": True, "proposals": [2, 50, 4], "boxes": "normalized",
        "outputs": {"num_detections": [2, 1], "semantic_logits": [2, 5, 16, 24]},
    }  # fmt: skip
    assert content["source"] == {"model": "m.onnx", "sha256": "ab", "opset": 16}
    assert content["panoptic"] == {"overlap_threshold": 0.25, "stuff_area_limit": 7, "instances_score_threshold": 0.5}
    assert "panoptic" not in plain(LEAST)
    assert "proposals" not in plain(LEAST)["io"]


def test_times_keep_a_pass_that_ran_twice(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "small.onnx")
    passes = "upgrade-opset,simplify,simplify"
    compile(tmp_path / "small.onnx", tmp_path / "run", Options(passes=passes, target="onnxruntime", engine=False))
    content = json.loads((tmp_path / "run" / "times.json").read_text())
    assert [list(row) for row in content["passes"]] == [["pass", "seconds"]] * 3
    assert [row["pass"] for row in content["passes"]] == ["upgrade-opset", "simplify", "simplify"]
    times = Times.read(tmp_path / "run")
    assert [row.seconds for row in read_run(tmp_path / "run").passes] == [t.seconds for t in times.passes]
    assert len({t.seconds for t in times.passes}) == 3  # none took another's place
    assert times.total is not None
    assert times.total > sum(t.seconds or 0 for t in times.passes)


def test_times_of_a_failed_run_come_back(tmp_path: Path) -> None:
    times = Times((PassTime("a", 0.5), PassTime("b", None)))
    times.write(tmp_path)
    assert Times.read(tmp_path) == times
    assert Times.read(tmp_path / "absent") == Times()


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("report.json", "[]", r"its content is '\[\]', expected an object"),
        ("report.json", '{"passes": [{"index": 1}]}', r"'passes\[0\]\.name' is missing"),
        ("report.json", '{"passes": 3}', "passes is '3', expected"),
        ("times.json", '{"passes": {"simplify": 0.1}}', "passes is .* expected .*; build it again"),
        ("times.json", "{", "no times: not JSON, or truncated"),
        ("manifest.json", "[" * 100_000, "no manifest: not JSON"),
        ("reproducer.json", "no", "no reproducer: not JSON"),
    ],
)
def test_what_is_damaged_is_refused_in_a_line(file: str, content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"passes": [], "notes": []}')
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=reason) as refused:
        read_run(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / file}: ")
    assert "\n" not in str(refused.value)


def test_an_image_of_another_type(tmp_path: Path) -> None:
    content = json.loads(json.dumps(plain(FULL)))
    content["io"]["input"]["dtype"] = "float2"
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"io.input.dtype is 'float2', expected"):
        Manifest.read(tmp_path)


PLACES = ["../secret.onnx", "/etc/hostname", "link.onnx", ".", "..", "a" * 5000, "a\0b", "loop"]


@pytest.mark.parametrize("place", PLACES)
def test_files_that_it_names_lie_in_its_folder(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret.onnx").touch()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link.onnx").symlink_to(tmp_path / "secret.onnx")
    (folder / "loop").symlink_to("loop")
    replace(FULL, target="onnxruntime", precision="fp32", calibration=None, runnable=place).write(folder)
    with pytest.raises(InputError, match=r"^manifest.json: .* (lies outside .*: refused|is no usable path: .*)$"):
        Session(folder)


@pytest.mark.parametrize("name", ["../../secret", "a/b", "", "x\0", 5])
def test_names_of_passes_lead_nowhere_else(name: object, tmp_path: Path) -> None:
    entry = {"index": 1, "name": name, "spec": "", "changed": True, "nodes_before": 1, "nodes_after": 1, "statistics": {}}
    (tmp_path / "report.json").write_text(json.dumps({"passes": [entry]}))
    (tmp_path / "passes").mkdir()
    with pytest.raises(InputError, match=r"report.json: passes\[0\].name is damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize("index", [0, -5, 10**9, 1.5, True])
def test_numbers_of_passes(index: object, tmp_path: Path) -> None:
    entry = {"index": index, "name": "a", "spec": "", "changed": True, "nodes_before": 1, "nodes_after": 1, "statistics": {}}
    (tmp_path / "report.json").write_text(json.dumps({"passes": [entry]}))
    (tmp_path / "passes").mkdir()
    with pytest.raises(InputError, match=r"report.json: passes\[0\].index is damaged"):
        read_run(tmp_path)


def test_a_reproducer_that_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"passes": []}')
    (tmp_path / "reproducer.json").write_text("{}")
    with pytest.raises(InputError, match=r"reproducer.json: 'pass' is missing"):
        read_run(tmp_path)
