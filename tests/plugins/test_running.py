"""The registry, and how the plugin tests run definitions: as functions, lowered, and built."""

from __future__ import annotations

from onnxgraft.plugins import REGISTRY


def test_registry_names_and_versions() -> None:
    assert {op.op_type: op.version for op in REGISTRY.values()} == {
        "EfficientNMS_TRT": "1",
        "ModulatedDeformConv2d": "1",
        "PyramidROIAlign_TRT": "1",
        "ROIAlign_TRT": "2",
        "UncappedNMS": "1",
    }


def test_functions_carry_every_attribute_and_only_standard_ops() -> None:
    for name, op in REGISTRY.items():
        function = op.function()
        assert function.name == name
        assert {*function.attribute} == {a.name for a in op.attributes} | {"plugin_version"}
        assert {node.domain for node in function.node} == {""}


