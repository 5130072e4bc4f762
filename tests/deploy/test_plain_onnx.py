"""The native form for programs that know standard operators alone: OpenVINO's detections, and what a converter refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgraft
from onnxgraft import Options
from onnxgraft.detector.outputs import TENSORS
from onnxgraft.golden.catalog import ROOT
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.images import read_image
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import Session

OPENVINO, ONNX2TF = os.environ.get("OPENVINO_PYTHON"), os.environ.get("ONNX2TF")
FORMS = {"nms": "native", "roi_align": "native", "deform_conv": "native"}
READS = """
import sys
import numpy as np
import openvino as ov

model, feeds, outputs, *names = sys.argv[1:]
exact = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
compiled = ov.Core().compile_model(model, "CPU", exact)
with np.load(feeds) as held:
    given = compiled(dict(held))
np.savez(outputs, **{name: given[name] for name in names})
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "out"
    options = Options(target="onnxruntime", size=(256, 320), checks=False, proof=False, **FORMS)
    onnxgraft.compile("mask_rcnn", folder, options)
    return folder


def operators(graph: onnx.GraphProto) -> set[tuple[str, str]]:
    """(domain, operator) of all nodes, those of inner graphs too."""
    found = set()
    for node in graph.node:
        found.add((node.domain, node.op_type))
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= operators(inner)
    return found


def test_standard_operators_only(build: Path) -> None:
    model = onnx.load(build / "model.onnx")
    found = operators(model.graph)
    (opset,) = model.opset_import
    assert (opset.domain, len(model.functions)) == ("", 0)
    assert {domain for domain, _ in found} == {""}
    assert len(found) > 30
    for _, name in found:
        assert onnx.defs.has(name, opset.version), name
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO, reason="OPENVINO_PYTHON names no Python with openvino and numpy")
def test_openvino_finds_the_same(build: Path, tmp_path: Path) -> None:
    session = Session(build)
    for path in sorted((ROOT / "mask_rcnn" / "images").glob("*.jpg")):
        feeds = session.feeds([session.place(read_image(path))])
        np.savez(tmp_path / "feeds.npz", **feeds)
        names = list(session.manifest.io.outputs)
        command = [str(OPENVINO), "-c", READS, build / "model.onnx", tmp_path / "feeds.npz", tmp_path / "outputs.npz", *names]
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "outputs.npz") as held:
            given = from_outputs(dict(held), session.manifest.io)
        wanted = from_outputs(session.run_feeds(feeds), session.manifest.io)
        report = match(wanted, given)
        assert report.exact, report
        assert len(wanted) > 20
        assert report.box_px < 1e-2
    assert set(names) <= set(TENSORS.values())


@pytest.mark.slow
@pytest.mark.skipif(not ONNX2TF, reason="ONNX2TF names no program onnx2tf")
def test_what_onnx2tf_refuses_is_what_the_page_says(build: Path, tmp_path: Path) -> None:
    """A version that converts it fails here: then docs/plain-onnx.md has to say so, and the answers are to be compared."""
    shutil.copy(build / "model.onnx", tmp_path / "model.onnx")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [str(ONNX2TF), "-i", "model.onnx", "-o", "saved", "-nuo", "-n", "-k", "input_tensor"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    node = re.search(r"onnx_op_name: (\S+)", done.stdout + done.stderr)
    assert done.returncode != 0
    assert node is not None
    assert re.fullmatch(r"box_pooler/PyramidROIAlign_TRT__features/Loop_\d+", node.group(1))
