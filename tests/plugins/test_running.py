"""The registry, and how the plugin tests run definitions: as functions, lowered, and built."""

from __future__ import annotations

import pytest

from onnxgraft.errors import PluginError
from onnxgraft.plugins import REGISTRY, functions_for, get


def test_registry_names_and_versions() -> None:
    assert {op.op_type: op.version for op in REGISTRY.values()} == {
        "EfficientNMS_TRT": "1",
        "ModulatedDeformConv2d": "1",
        "PyramidROIAlign_TRT": "1",
        "ROIAlign_TRT": "2",
        "UncappedNMS": "1",
    }
    with pytest.raises(PluginError, match="no plugin op 'RoiAlign'"):
        get("RoiAlign")


def test_functions_carry_every_attribute_and_only_standard_ops() -> None:
    functions = functions_for(REGISTRY)
    assert [f.name for f in functions] == sorted(REGISTRY)
    for function in functions:
        op = REGISTRY[function.name]
        assert {*function.attribute} == {a.name for a in op.attributes} | {"plugin_version"}
        assert {node.domain for node in function.node} == {""}


