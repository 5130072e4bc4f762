"""What a build leaves is itself run on the proof's pictures; a typed one is at a distance, and said to be."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnxgraft.driver.compile import compile
from onnxgraft.errors import ProofError
from onnxgraft.golden import scenes
from onnxgraft.options import CompileOptions, Options, Size
from onnxgraft.passes.default import default_pipeline

SIZE = Size(256, 320)


def test_the_delivered_graph_gives_the_files_answers(tmp_path: Path) -> None:
    made = compile("fast_rcnn_thin", tmp_path / "build", Options(size=SIZE, target="tensorrt-rtx", engine=False, checks=False))
    assert made.proof is not None
    assert made.proof.ran == "model.onnx" != made.manifest.runnable
    assert made.proof.matched == made.proof.detections >= 20
    assert "on 1 picture in model.onnx, " in str(made.proof)


def test_a_typed_graph_is_said_to_be_at_a_distance(tmp_path: Path) -> None:
    options = Options(size=SIZE, target="onnxruntime", precision="int8", checks=False)
    proof = compile("fast_rcnn_thin", tmp_path / "build", options).proof
    assert proof is not None
    assert proof.distance is not None
    assert proof.ran is None
    assert str(proof).startswith("proved of the fp32 graph: ")
    assert "; int8 is at a distance: " in str(proof)
    stored = json.loads((tmp_path / "build" / "manifest.json").read_text())["proof"]
    assert stored["distance"]["kind"] == "int8"
    assert stored["distance"]["reference"] == proof.detections
    assert "at a distance" in stored["said"]


def test_the_pictures_of_a_proof_are_drawn_for_the_report(tmp_path: Path) -> None:
    """On those that the user gave: on made ones nothing is to be seen."""
    picture = tmp_path / "given.png"
    cv2.imwrite(str(picture), scenes.scene(0)[: SIZE[0], : SIZE[1]])
    options = Options(size=SIZE, target="onnxruntime", engine=False, images=(picture,))
    run = compile("mask_rcnn", tmp_path / "build", options).folder
    drawn = cv2.imread(str(run / "drawn" / "image_0.jpg"))
    assert drawn.shape[:2] == tuple(SIZE)
    assert np.abs(drawn.astype(int) - cv2.imread(str(picture))).max() > 60  # boxes and labels
    page = (run / "report.html").read_text()
    assert "Detections in image_0.jpg" in page
    assert "Not measured yet" in page

    plain = compile("mask_rcnn", tmp_path / "plain", Options(size=SIZE, target="onnxruntime", engine=False)).folder
    assert not (plain / "drawn").exists()


def test_a_graph_of_a_newer_opset_is_proved_all_the_same(tmp_path: Path) -> None:
    """bf16 needs opset 22, of which ONNX Runtime has no RoiAlign."""
    options = Options(size=SIZE, target="tensorrt-rtx", precision="bf16", engine=False, checks=False)
    proof = compile("mask_rcnn", tmp_path / "build", options).proof
    assert proof is not None
    assert proof.missing is None
    assert str(proof).startswith("proved of the fp32 graph: ")
    assert proof.ran == "the native form"
    assert "; bf16 is at a distance: " in str(proof)


def test_a_file_of_a_high_opset_is_proved_in_the_native_form(tmp_path: Path) -> None:
    """Its opset is not raised, so no pass gives that fact."""
    options = Options(size=SIZE, target="tensorrt-rtx", precision="fp16", engine=False, checks=False)
    proof = compile("mask_rcnn_dconv_thin", tmp_path / "build", options).proof
    assert proof is not None
    assert proof.ran == "the native form"


WRONG_LOWERING = '''
from dataclasses import dataclass
from onnxgraft.pipeline.base import Pass


@dataclass(frozen=True, kw_only=True)
class ThreeFewer(Pass):
    """Counts three detections fewer, after everything was lowered."""

    def run(self, graph, ctx):
        import numpy as np
        import onnx_graphsurgeon as gs

        number = next(t for t in graph.gs.outputs if t.name == "num_detections")
        node = number.inputs[0]
        inner = gs.Variable("counted", number.dtype, number.shape)
        node.outputs = [inner if t is number else t for t in node.outputs]
        fewer = gs.Constant("fewer", np.array(3, number.dtype))
        graph.gs.nodes.append(gs.Node("Sub", "fewer", {}, [inner, fewer], [number]))
'''


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_fault_of_the_native_form_alone_is_caught(precision: str, tmp_path: Path) -> None:
    """The engine gets it, whatever ONNX Runtime would rather run. Typed, it is proved with the file's numbers."""
    first = "        import numpy as np\n"
    native = WRONG_LOWERING.replace(first, f"        if graph.functions:\n            return\n{first}")
    (tmp_path / "wrong.py").write_text(native)
    steps = f"{default_pipeline(CompileOptions(size=SIZE, precision=precision), 'tensorrt-rtx')},three-fewer"
    options = Options(passes=steps, load=(tmp_path / "wrong.py",), target="tensorrt-rtx", engine=False, checks=False)
    with pytest.raises(ProofError, match=r"^picture 1: \d+ of 100 found again"):
        compile("fast_rcnn_thin", tmp_path / "build", options)
    assert not (tmp_path / "build").exists()


def test_a_fault_behind_the_named_outputs_is_caught_in_the_delivered_graph(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG_LOWERING)
    steps = f"{default_pipeline(CompileOptions(size=SIZE), 'onnxruntime')},three-fewer"
    options = Options(passes=steps, load=(tmp_path / "wrong.py",), target="onnxruntime", checks=False)
    with pytest.raises(ProofError, match=r"^picture 1: \d+ of 100 found again"):
        compile("fast_rcnn_thin", tmp_path / "build", options)
    assert not (tmp_path / "build").exists()


def test_chosen_numbers_are_given_to_the_file_too(tmp_path: Path) -> None:
    """Its own threshold is 0.05; the number of detections and the IoU threshold follow likewise."""
    chosen = Options(size=SIZE, target="onnxruntime", checks=False, score_threshold=0.01, iou_threshold=0.4, detections=30)
    proof = compile("mask_rcnn", tmp_path / "build", chosen).proof
    assert proof is not None
    assert (proof.ran, proof.matched, proof.detections) == ("model.onnx", 30, 30)
    assert "not the chosen ones" not in str(proof)


def test_numbers_that_the_file_cannot_have_are_said(tmp_path: Path) -> None:
    more = Options(size=SIZE, target="onnxruntime", checks=False, detections=300)  # the file keeps 100
    proof = compile("fast_rcnn_thin", tmp_path / "build", more).proof
    assert proof is not None
    assert proof.ran is None
    assert "on 1 picture with the export's own numbers, not the chosen ones, " in str(proof)
    assert json.loads((tmp_path / "build" / "manifest.json").read_text())["proof"]["exported"] is True


def test_a_fault_of_a_build_with_chosen_numbers_is_caught(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG_LOWERING)
    chosen = CompileOptions(size=SIZE, detections=40)
    steps = f"{default_pipeline(chosen, 'onnxruntime')},three-fewer"
    options = Options(passes=steps, load=(tmp_path / "wrong.py",), target="onnxruntime", checks=False)
    with pytest.raises(ProofError, match=r"^picture 1: \d+ of 40 found again"):
        compile("fast_rcnn_thin", tmp_path / "build", options)
