"""One thin member of each family of detectron2's zoo: compiled, it gives PyTorch's answers."""

from __future__ import annotations

import hashlib
import lzma
import re
from pathlib import Path

import onnx
import pytest
from helpers.graphs import compare_text
from helpers.members import MEMBERS, OPSET_11, answers, meta, picture

from golden_graphs.zoo import checking
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def check(name: str, form: str, folder: Path) -> checking.Check:
    home = catalog.folder(name)
    return checking.check(
        catalog.resolve(name, folder), form, picture(name), answers(name), folder, home / "meta.json", threads=2
    )


def test_every_family_has_a_member() -> None:
    families = {meta(name)["family"] for name in MEMBERS}
    assert families == {"rcnn", "cascade_rcnn", "keypoint_rcnn", "fast_rcnn", "panoptic_fpn", "semantic_fpn", "rpn",
                        "retinanet", "fcos", "ssd"}  # fmt: skip
    assert all(meta(name)["detections"] >= 50 for name in MEMBERS if meta(name)["family"] != "semantic_fpn")


@pytest.mark.parametrize("form", checking.FORMS)
@pytest.mark.parametrize("name", MEMBERS)
def test_compiled_it_gives_pytorchs_answers(name: str, form: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """And the text of its plugin graph is as stored."""
    found = check(name, form, folder)
    assert found.exact, found
    if form == "plugin":
        compiled = folder / f"{catalog.resolve(name, folder).stem}-{form}.onnx"
        compare_text(catalog.folder(name) / "plugin.txt", text(Graph.load(compiled), canonical=True), request)


@pytest.mark.parametrize("name", OPSET_11)
def test_detectron2s_own_export_gives_them_too(name: str, folder: Path) -> None:
    found = check(name, "plugin", folder)
    assert found.exact, found


@pytest.mark.parametrize("name", MEMBERS)
def test_complete_files_are_the_same_everywhere(name: str, folder: Path) -> None:
    assert hashlib.sha256(picture(name).tobytes()).hexdigest() == meta(name)["picture"]["sha256"]
    for file, digest in meta(name)["complete_sha256"].items():
        variant = file.removeprefix("model").removesuffix(".onnx").removeprefix("_")
        path = catalog.resolve(f"{name}@{variant}" if variant else name, folder)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, file


@pytest.mark.parametrize("name", MEMBERS)
def test_members_are_small_and_tell_nothing_of_the_machine(name: str) -> None:
    home = catalog.folder(name)
    assert sum(file.stat().st_size for file in home.iterdir()) < 500_000
    for file in home.glob("*.xz"):
        model = onnx.load_from_string(lzma.decompress(file.read_bytes()))
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
        assert not re.search(rb"site-packages|/home/|/root/|/tmp/|/usr/", model.SerializeToString()), file
