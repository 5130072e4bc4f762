"""Recognition of real detectron2 exports: every number of the config is read back from the graph alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import pytest
from helpers import exports

from onnxgraft.analysis.rpn import closed_form_cells
from onnxgraft.detector.describe import spec_rows
from onnxgraft.detector.spec import DetectorSpec, Pooler
from onnxgraft.tools.inspect import inspect


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


def check_numbers(spec: DetectorSpec, wanted: dict[str, Any]) -> None:
    """Every number of a spec against what the config said."""
    image, rpn, head = spec.image, spec.rpn, spec.box_head
    assert spec.family == wanted["family"]
    assert (image.height, image.width) == (wanted["image"]["height"], wanted["image"]["width"])
    assert image.mean == pytest.approx(wanted["image"]["mean"], rel=1e-6)
    assert image.std == pytest.approx(wanted["image"]["std"], rel=1e-6)
    assert (image.order, image.order_known) == (wanted["image"]["order"], wanted["image"]["order_known"])

    assert [level.stride for level in rpn.levels] == wanted["strides"]
    assert [list(level.anchor_sizes) for level in rpn.levels] == wanted["anchor_sizes"]
    for level in rpn.levels:
        assert list(level.aspect_ratios) == wanted["aspect_ratios"]
        assert level.anchor_offset == wanted["anchor_offset"]
        assert level.height == math.ceil(image.height / level.stride)
        assert level.width == math.ceil(image.width / level.stride)
        cells = closed_form_cells(level.anchor_sizes, level.aspect_ratios)
        np.testing.assert_allclose(level.cell_anchors, cells, rtol=1e-6, atol=1e-4)
    assert [level.topk for level in rpn.levels] == wanted["topk"]
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == (wanted["pre_nms_topk"], wanted["post_nms_topk"])
    assert rpn.nms_threshold == wanted["rpn_nms_threshold"]
    assert rpn.min_box_size == wanted["min_box_size"]
    assert list(rpn.coder.weights) == wanted["rpn_weights"]
    assert rpn.coder.scale_clamp == pytest.approx(wanted["scale_clamp"], abs=1e-6)

    check_pooler(spec.box_pooler, {**wanted["pooler"], **wanted["box_pooler"]})
    assert head.num_classes == wanted["classes"]
    assert (head.activation, head.class_agnostic) == (wanted["activation"], wanted["class_agnostic"])
    assert list(head.coder.weights) == wanted["box_weights"]
    assert head.coder.scale_clamp == pytest.approx(wanted["scale_clamp"], abs=1e-6)
    assert (head.score_threshold, head.nms_threshold) == (wanted["score_threshold"], wanted["nms_threshold"])
    assert head.detections_per_image == wanted["detections"]
    if wanted["family"] == "faster-rcnn-fpn":
        assert spec.mask_head is None
        assert spec.mask_pooler is None
        return
    assert spec.mask_head is not None
    assert spec.mask_pooler is not None
    check_pooler(spec.mask_pooler, {**wanted["pooler"], **wanted["mask_pooler"]})
    assert spec.mask_head.resolution == wanted["mask_size"]
    assert spec.mask_head.class_agnostic == wanted["mask_agnostic"]


def check_pooler(pooler: Pooler, wanted: dict[str, Any]) -> None:
    assert (pooler.resolution, pooler.sampling_ratio) == (wanted["resolution"], wanted["sampling_ratio"])
    assert pooler.aligned == wanted["aligned"]
    assert list(pooler.scales) == wanted["scales"]
    assert pooler.min_level == wanted["min_level"]
    assert (pooler.canonical_level, pooler.canonical_size) == (wanted["canonical_level"], wanted["canonical_size"])
    assert pooler.epsilon == pytest.approx(1e-8, rel=1e-3)
    assert pooler.channels == wanted["channels"]


@pytest.mark.parametrize("name", exports.NAMES)
def test_every_number_is_read_from_a_graph_without_names(name: str, folder: Path) -> None:
    model = exports.rename(exports.structure(name))
    spec, notes = inspect(exports.write(model, folder / f"{name}.onnx"))
    wanted = exports.expected(name)
    check_numbers(spec, wanted)
    assert len(notes) == wanted.get("notes", 0), notes


def test_the_exporters_names_change_nothing(folder: Path) -> None:
    spec, _ = inspect(exports.write(exports.structure("thresholds"), folder / "named.onnx"))
    check_numbers(spec, exports.expected("thresholds"))


def test_the_order_of_nodes_changes_nothing(folder: Path) -> None:
    """Another topological order of the same graph: as late as possible instead of as early."""
    model = exports.structure("base")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(_last_moment(nodes, [o.name for o in model.graph.output]))
    assert [n.name for n in model.graph.node] != [n.name for n in nodes]
    spec, _ = inspect(exports.write(model, folder / "reordered.onnx"))
    check_numbers(spec, exports.expected("base"))


def _last_moment(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    made_by = {name: node for node in nodes for name in node.output}
    placed: list[onnx.NodeProto] = []
    done: set[str] = set()
    stack = [(made_by[name], False) for name in outputs if name in made_by]
    while stack:
        node, ready = stack.pop()
        if node.output[0] in done:
            continue
        if ready:
            done.add(node.output[0])
            placed.append(node)
            continue
        stack.append((node, True))
        stack += [(made_by[name], False) for name in _reads(node) if name in made_by]
    return placed


def _reads(node: onnx.NodeProto) -> list[str]:
    held = [inner for a in node.attribute if a.HasField("g") for inner in a.g.node]
    return [*node.input, *(name for inner in held for name in _reads(inner))]


def test_a_graph_through_onnxsim_reads_the_same(golden_model: Path, tmp_path: Path) -> None:
    simplified, _ = onnxsim.simplify(onnx.load(golden_model))
    onnx.save(simplified, tmp_path / "simplified.onnx")
    spec, _ = inspect(tmp_path / "simplified.onnx")
    raw, _ = inspect(golden_model)
    for attribute in ("family", "box_head", "mask_head"):
        a, b = (_numbers(getattr(s, attribute)) for s in (spec, raw))
        assert a == b, attribute
    assert spec_rows(spec) == spec_rows(raw)


def _numbers(part: Any) -> Any:
    return {k: v for k, v in vars(part).items() if not k.endswith("_tensor")} if hasattr(part, "__dict__") else part


def test_pooler_type_of_an_old_export_is_the_users_word(folder: Path) -> None:
    path = exports.write(exports.structure("shapes_480x640_op11"), folder / "old.onnx")
    spec, notes = inspect(path, pooler_type="ROIAlign")
    assert not spec.box_pooler.aligned
    assert notes == []
