"""Unchanged detectors are proved, in every form of a build; a build that cannot be proved says so, or is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import numpy_helper

from onnxgraft.driver.compile import compile
from onnxgraft.errors import ProofError, Refusal
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions, Options, Size
from onnxgraft.passes.default import default_pipeline
from onnxgraft.proof.proof import Proof
from onnxgraft.proof.prove import prove

SIZE = Size(256, 320)


def proved(model: str, folder: Path, **options: Any) -> Proof:
    chosen = CompileOptions(size=SIZE, **options)
    steps = default_pipeline(chosen, "onnxruntime").passes
    return prove(catalog.resolve(model, folder), steps, exact_padding=chosen.exact_padding)


@pytest.mark.parametrize(
    "model", ["mask_rcnn", "cascade_mask_rcnn_thin", "fast_rcnn_thin", "fcos_thin", "keypoint_rcnn_thin", "rpn_FPN_thin",
              "pointrend_thin", "ssd_torchvision_thin"]
)
def test_members_are_proved_part_by_part_and_on_a_picture(model: str, tmp_path: Path) -> None:
    proof = proved(model, tmp_path)
    assert proof.whole, str(proof)
    assert proof.parts >= 2
    assert proof.matched == proof.detections >= 20
    assert proof.network is None
    assert str(proof).startswith(f"proved: {proof.parts} parts on {proof.probes} probes; ")


def test_a_network_that_only_segments_is_proved_by_its_logits(tmp_path: Path) -> None:
    proof = proved("semantic_fpn_thin", tmp_path)
    assert proof.whole
    assert proof.semantic is not None
    assert "semantic logits within" in str(proof)


def test_rows_of_a_batch_are_each_held_against_a_run_of_their_own(tmp_path: Path) -> None:
    proof = proved("mask_rcnn", tmp_path, batch=2)
    assert proof.whole
    assert (proof.pictures, proof.matched) == (2, proof.detections)


def test_exact_padding_is_proved_on_a_picture_smaller_than_the_canvas(tmp_path: Path) -> None:
    proof = proved("retinanet_thin", tmp_path, exact_padding=True)
    assert proof.whole
    assert proof.pictures == 2
    assert proof.network is not None  # masks stand between the convolutions


def test_a_file_that_resizes_pictures_itself_is_proved_at_its_own_size_alone(tmp_path: Path) -> None:
    """Whatever torchvision's detector says of a smaller picture, it says of an enlarged one."""
    with pytest.raises(Refusal, match=r"resizes pictures itself.*without --exact-padding.*Resize"):
        proved("retinanet_torchvision_thin", tmp_path, exact_padding=True)


def test_numbers_of_ones_own_are_proved_with_the_exports(tmp_path: Path) -> None:
    proof = proved("retinanet_thin", tmp_path, score_threshold=0.9, detections=3)
    assert proof.whole
    assert proof.detections >= 20


def of_threshold(member: str, threshold: float, folder: Path, old: float = 0.05) -> Path:
    """A member whose detections are compared with another score threshold."""
    model = onnx.load(catalog.resolve(member, folder))
    held = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    held |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"}
    compared = [n for n in model.graph.node if n.op_type == "Greater" and np.allclose(held.get(n.input[1], 0), old)]
    assert compared, "the score threshold of the detector's config"
    model.graph.initializer.append(numpy_helper.from_array(np.array(threshold, np.float32), "another_threshold"))
    for node in compared:
        node.input[1] = "another_threshold"
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


@pytest.mark.parametrize("model", ["mask_rcnn", "retinanet_thin"])
def test_a_score_threshold_of_0_is_proved(model: str, tmp_path: Path) -> None:
    proof = proved(str(of_threshold(model, 0.0, tmp_path)), tmp_path)
    assert proof.whole, str(proof)
    assert proof.matched == proof.detections >= 20


def test_a_threshold_of_candidates_that_are_ranked_is_lowered_on_both_sides(tmp_path: Path) -> None:
    """SSD's suppression has ranks for scores: the threshold stands before it."""
    path = of_threshold("ssd_torchvision_thin", 0.9999, tmp_path, 0.01)
    proof = proved(str(path), tmp_path)
    assert proof.whole, str(proof)
    assert proof.matched == proof.detections >= 20
    assert proof.lowered is not None
    assert proof.lowered < 0.9999


@pytest.mark.parametrize("model", ["retinanet_thin", "mask_rcnn"])
def test_the_smallest_canvas_is_proved(model: str, tmp_path: Path) -> None:
    """Two levels of one location; proposals of fewer anchors than their top-k; a threshold lowered far down."""
    steps = default_pipeline(CompileOptions(size=Size(64, 64)), "onnxruntime").passes
    proof = prove(catalog.resolve(model, tmp_path), steps)
    assert proof.whole, str(proof)
    assert proof.matched == proof.detections >= 20


def test_pictures_are_made_until_there_is_enough_to_compare(tmp_path: Path) -> None:
    """Boxes that hardly touch suppress each other: one picture has few, whatever the threshold."""
    graph = Graph.load(catalog.resolve("retinanet_thin", tmp_path))
    (node,) = [n for held in [graph.gs, *graph.subgraphs()] for n in held.nodes if n.op == "NonMaxSuppression"]
    node.inputs[3] = gs.Constant("another_iou", np.array([0.02], np.float32))
    graph.save(tmp_path / "changed.onnx")
    proof = proved(str(tmp_path / "changed.onnx"), tmp_path)
    assert proof.whole, str(proof)
    assert proof.pictures > 1
    assert proof.matched == proof.detections >= 20


def test_a_build_says_what_was_proved(tmp_path: Path) -> None:
    options = Options(size=SIZE, target="onnxruntime", checks=False)
    made = compile("retinanet_thin", tmp_path / "build", options)
    assert made.proof is not None
    manifest = json.loads((tmp_path / "build" / "manifest.json").read_text())
    assert manifest["proof"]["said"] == made.proof.said
    assert manifest["proof"]["matched"] == manifest["proof"]["detections"]


def test_without_a_proof_the_manifest_says_none(tmp_path: Path) -> None:
    options = Options(size=SIZE, target="onnxruntime", checks=False, proof=False)
    made = compile("retinanet_thin", tmp_path / "build", options)
    assert made.proof is None
    assert json.loads((tmp_path / "build" / "manifest.json").read_text())["proof"] is None


WRONG_PASS = '''
from dataclasses import dataclass
from onnxgraft.pipeline.base import Pass


@dataclass(frozen=True, kw_only=True)
class FewerClasses(Pass):
    """Lets classes suppress each other."""

    def run(self, graph, ctx):
        next(node for node in graph.nodes if node.op == "EfficientNMS_TRT").attrs["class_agnostic"] = 1
'''


def test_a_failed_proof_leaves_no_build(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG_PASS)
    text = str(default_pipeline(CompileOptions(size=SIZE), "onnxruntime")).replace("dense-nms,", "dense-nms,fewer-classes,")
    options = Options(passes=text, load=(tmp_path / "wrong.py",), target="onnxruntime", checks=False)
    with pytest.raises(ProofError, match=r"^detections, fed .*first after pass 'fewer-classes'"):
        compile("retinanet_thin", tmp_path / "build", options)
    assert not (tmp_path / "build").exists()
