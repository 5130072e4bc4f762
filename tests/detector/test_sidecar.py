"""A sidecar says what the graph cannot, and must agree with what it can."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from onnxgraft.detector import sidecar
from onnxgraft.detector.panoptic import Combine
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import InputError
from onnxgraft.golden import catalog, sidecars
from onnxgraft.tools.inspect import inspect


@pytest.fixture(scope="module")
def spec() -> DetectorSpec:
    return inspect(catalog.ROOT / "mask_rcnn" / "model.onnx")[0]


def write(folder: Path, config: dict[str, Any], names: list[str] | None = None) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps({"class_names": names, "config": config}))
    return path


def test_the_golden_graphs_meta_agrees_in_every_field(spec: DetectorSpec) -> None:
    found = sidecars.find("mask_rcnn", Path("unused"))
    assert found.class_names == ("disc", "square", "triangle", "star", "ring")
    assert found.edges == (800, 1333)
    found.check(spec)
    said = {key for key in sidecar.FIELDS if sidecar._lookup(found.config, key) is not None}
    there = {key for key, path in sidecar.FIELDS.items() if sidecar._read_spec(spec, path.split(".")) is not None}
    assert said == there


@pytest.mark.parametrize("key", sorted(sidecar.FIELDS))
def test_every_field_is_compared(spec: DetectorSpec, key: str) -> None:
    config: dict[str, Any] = {}
    inner = config
    *parts, last = key.split(".")
    for part in parts:
        inner = inner.setdefault(part, {})
    inner[last] = 123.5
    with pytest.raises(InputError, match=rf"{key} is 123.5, but the graph has "):
        sidecar.Sidecar(Path("s.json"), (), config).check(spec)


def test_a_level_of_fewer_anchors_than_the_top_k_is_no_contradiction(spec: DetectorSpec) -> None:
    assert spec.rpn is not None
    first = dataclasses.replace(spec.rpn.levels[0], height=16, width=16, topk=768)
    small = dataclasses.replace(spec, rpn=dataclasses.replace(spec.rpn, levels=(first,), pre_nms_topk=768))
    sidecar.Sidecar(Path("s.json"), (), {"rpn": {"pre_nms_topk": 1000}}).check(small)
    with pytest.raises(InputError, match="pre_nms_topk is 700, but the graph has 768"):
        sidecar.Sidecar(Path("s.json"), (), {"rpn": {"pre_nms_topk": 700}}).check(small)


def test_is_found_beside_the_model_or_where_it_is_given(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    assert sidecars.find(str(model), model) == sidecar.Sidecar()
    write(tmp_path, {"shortest_edge": 640, "channel_order": "RGB"}, ["cat"])
    beside = sidecars.find(str(model), model)
    assert (beside.edges, beside.channel_order, beside.class_names) == ((640, 1333), "RGB", ("cat",))
    assert sidecars.find(str(model), tmp_path / "other.onnx", tmp_path / "model.json") == beside


def test_number_of_names_must_fit(spec: DetectorSpec) -> None:
    with pytest.raises(InputError, match="2 class names, but the graph has 5 classes"):
        sidecar.Sidecar(Path("s.json"), ("a", "b")).check(spec)


def test_bad_files_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        sidecars.find("m", Path("m.onnx"), tmp_path / "absent.json")
    (tmp_path / "x.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="no sidecar: expected an object"):
        sidecars.find("m", Path("m.onnx"), tmp_path / "x.json")
    with pytest.raises(InputError, match="channel_order 'GBR' is not BGR or RGB"):
        sidecars.find("m", Path("m.onnx"), write(tmp_path, {"channel_order": "GBR"}))


def test_detections_are_dataclasses_of_plain_data(spec: DetectorSpec) -> None:
    assert json.loads(json.dumps(spec.to_dict()))["box_head"] == json.loads(json.dumps(dataclasses.asdict(spec.box_head)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"class_names": 5}', "class_names is 5, expected a list of names"),
        ('{"class_names": "cat"}', "class_names is 'cat', expected a list of names"),
        ('{"class_names": ["cat", 5]}', "class_names is a list of 2, expected a list of names"),
        ('{"semantic_class_names": {}}', "semantic_class_names is a object of 0, expected a list of names"),
        ('{"config": {"shortest_edge": "abc"}}', "shortest_edge is 'abc', expected a number of pixels from 1 to 1048576"),
        ('{"config": {"longest_edge": Infinity}}', "longest_edge is inf, expected a number of pixels from 1 to 1048576"),
        ('{"config": {"longest_edge": NaN}}', "longest_edge is nan, expected a number of pixels from 1 to 1048576"),
        ('{"config": {"shortest_edge": 0}}', "shortest_edge is 0, expected a number of pixels from 1 to 1048576"),
        ('{"config": {"shortest_edge": true}}', "shortest_edge is True, expected a number of pixels from 1 to 1048576"),
        ('{"config": {"channel_order": 7}}', "channel_order 7 is not BGR or RGB"),
        ('{"config": {"channel_order": ["BGR"]}}', "channel_order a list of 1 is not BGR or RGB"),
        ('{"config": {"pixel_mean": [1, null]}}', "pixel_mean is a list of 2, expected a number, or numbers in lists"),
        ('{"config": {"rpn": {"nms_threshold": NaN}}}', "rpn.nms_threshold is nan, expected a number, or numbers in lists"),
        ('{"config": {"strides": [[[[[[4]]]]]]}}', "strides is a list of 1, expected a number, or numbers in lists"),
        ('{"config": {"strides": ' + "9" * 400 + "}}", "strides is a number of more than 60 digits, expected a number"),
        (
            '{"config": {"panoptic": {"overlap_threshold": -1}}}',
            "panoptic.overlap_threshold is -1, expected a number of at least 0",
        ),
        ('{"config": {"panoptic": {"stuff_area_limit": Infinity}}}', "cannot convert float infinity to integer"),
        ('{"config": {"panoptic": [1]}}', "panoptic is a list of 1, expected an object"),
        ('{"config": "x"}', "config is 'x', expected an object"),
        ("[1]", "no sidecar: expected an object with class_names and config, not a list of 1"),
        ("[" * 100_000, "no sidecar: not JSON, or truncated"),
        ('{"config": ' + "9" * 100_000 + "}", "no sidecar: not JSON, or truncated"),
        ("\xff", "no sidecar: not JSON, or truncated"),
    ],
)  # fmt: skip
def test_wrong_types_are_refused_in_a_line(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as refused:
        sidecar.read(path)
    assert str(refused.value).startswith(f"{path}: {reason}")
    assert len(str(refused.value).splitlines()) == 1


def test_null_is_what_is_not_said(tmp_path: Path) -> None:
    config = {"shortest_edge": None, "channel_order": None, "strides": None, "panoptic": None}
    held = sidecar.read(write(tmp_path, config))
    assert (held.edges, held.channel_order, held.panoptic) == ((800, 1333), None, Combine())
    (tmp_path / "model.json").write_text('{"class_names": null, "config": null}')
    assert sidecar.read(tmp_path / "model.json").config == {}
