"""Releases of TensorRT: the names that are used are there, and the tables of the docs are what was found."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
from campaigns import bindings

from onnxgraft.errors import InputError
from onnxgraft.options import BuilderOptions
from onnxgraft.plugins import REGISTRY
from onnxgraft.targets import get, release_table
from onnxgraft.targets.base import Wanted
from onnxgraft.targets.releases import LISTED, NAMES, Release, release_of
from onnxgraft.targets.trt import api

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tensorrt-versions.md"
STORED = json.loads(bindings.DATA.read_text())
OBJECTS = {  # what our sources call NVIDIA's objects
    "trt", "builder", "network", "parser", "config", "error", "layer", "cache", "serialized", "_runtime", "_engine", "_context",
    "ILogger", "Runtime", "ProfilingVerbosity", "MemoryPoolType", "BuilderFlag", "HardwareCompatibilityLevel", "TensorIOMode",
    "NetworkDefinitionCreationFlag", "ComputeCapability",
}  # fmt: skip
PYTHONS = {"append", "strerror", "split", "stem"}


def test_the_list_of_used_names_is_complete() -> None:
    """Every attribute of NVIDIA's objects in the sources is in it."""
    known = {word for name in (*api.names(), *api.PYTHON) for word in name.split(".")} | set(api.USED)
    known |= {word for kind, members in api.RTX_ONLY.items() for word in (kind, *members)}
    used = set()
    for name in ("builder", "messages", "engine_runner", "trial"):
        tree = ast.parse((ROOT / "compiler" / "targets" / "trt" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                holder = node.value
                base = holder.id if isinstance(holder, ast.Name) else holder.attr if isinstance(holder, ast.Attribute) else ""
                if base in OBJECTS:
                    used.add(node.attr)
    assert len(used) > 30
    assert {name for name in used if not name.startswith("__")} - known - PYTHONS == set()


@pytest.mark.parametrize("version", STORED)
def test_bindings_that_were_looked_into_have_the_names(version: str) -> None:
    """All of them where the extra [tensorrt] begins; what older ones lack is what the table of releases says."""
    missing = set(STORED[version]["missing"])
    release = release_of(version)
    if release.since("10.10"):
        assert not missing
    assert ("NetworkDefinitionCreationFlag.STRONGLY_TYPED" in missing) == release.weakly_typed
    assert ("BuilderFlag.STRIP_PLAN" in missing) == (not release.has_flag("--stripWeights"))
    same = not release.since("10.9")
    assert ("HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY" in missing) == same


def test_bindings_at_hand_have_the_names() -> None:
    folder = os.environ.get("TENSORRT_BINDINGS")
    if not folder:
        pytest.skip("TENSORRT_BINDINGS names no folder of NVIDIA's bindings (see tests/campaigns/bindings.py)")
    if bindings.unusable():
        pytest.skip(str(bindings.unusable()))
    found = bindings.wheels(Path(folder))
    assert found, f"{folder} has no bindings for this Python"
    for version, wheel in found.items():
        assert bindings.names_of(wheel) == STORED[version], version


def test_the_page_has_the_tables() -> None:
    page = PAGE.read_text()
    table = release_table.BEGIN + page.partition(release_table.BEGIN)[2].partition(release_table.END)[0] + release_table.END
    assert table == release_table.markdown(), "put what onnxgraft releases --markdown prints into docs/tensorrt-versions.md"
    for version, names in STORED.items():
        lacking = ", ".join(f"`{name}`" for name in names["missing"]) or "none"
        assert f"| {version} | {names['found']} of {len(api.names()) + len(api.PYTHON)} | {lacking} |" in page


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("8.6", "8.6"), ("8.6.1.6", "8.6"), ("10.3.0", "10.3"), ("v10.16", "10.16"), ("jetpack5.1.2", "8.5"),
        ("JetPack6.2", "10.3"),
    ],
)  # fmt: skip
def test_releases_by_what_people_call_them(text: str, name: str) -> None:
    assert release_of(text) == Release(name)


@pytest.mark.parametrize("text", ["8.4", "9.2", "12.0", "latest", "10", "jetpack4", ""])
def test_other_releases_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="give"):
        release_of(text)


def test_plugins_say_where_they_load() -> None:
    for plugin in REGISTRY.values():
        assert bool(plugin.releases) == bool(plugin.targets)
        assert all(since in NAMES for since, _ in plugin.releases)
        assert not plugin.releases or plugin.releases[-1][1] == plugin.version or plugin.deprecated
        assert set(plugin.attributes_since) <= {attribute.name for attribute in plugin.attributes}


def test_lists_of_operators() -> None:
    for name in LISTED:
        assert Release(name).types_of("Conv") >= {"FP32", "FP16"}
        assert not Release(name).types_of("QLinearConv")
    assert "BF16" not in Release("8.6").types_of("Conv")
    assert "INT32" not in Release("8.6").types_of("ReduceSum")
    assert Release("10.0").types_of("DeformConv") == frozenset()
    assert Release("10.1").types_of("DeformConv")


@pytest.mark.parametrize(
    ("release", "options", "reason"),
    [
        ("8.5", {"builder_optimization_level": 3}, "--builderOptimizationLevel=3: trtexec has it since 8.6, not in 8.5"),
        ("8.6", {"strip_weights": True}, "--stripWeights: trtexec has it since 10.0, not in 8.6"),
        ("10.3", {"hardware_compatibility_level": "sameComputeCapability"},
         "--hardwareCompatibilityLevel=sameComputeCapability: trtexec has it since 10.9, not in 10.3"),
    ],
)  # fmt: skip
def test_flags_that_a_release_lacks(release: str, options: dict[str, object], reason: str) -> None:
    target = get("tensorrt")
    with pytest.raises(InputError) as refused:
        target.trtexec_line(Path("m.onnx"), Path("m.engine"), BuilderOptions(**options), Wanted(release))  # type: ignore[arg-type]
    assert str(refused.value).startswith(reason)


def test_lines_of_trtexec() -> None:
    target, files = get("tensorrt"), (Path("m.onnx"), Path("m.engine"))
    old = target.trtexec_line(*files, None, Wanted("8.5", "int8", {"decode": True, "topk": False}))
    assert old is not None
    assert "--buildOnly --int8 --fp16 --precisionConstraints=obey" in old
    assert "--layerPrecisions=decode:fp32,topk:fp32 --layerOutputTypes=decode:fp32" in old
    assert "stronglyTyped" not in old
    new = target.trtexec_line(*files, None, Wanted("10.3", "int8"))
    assert new == "trtexec --onnx=m.onnx --saveEngine=m.engine --stronglyTyped --skipInference --profilingVerbosity=detailed"
    with pytest.raises(InputError, match="more than one command line"):
        target.trtexec_line(*files, None, Wanted("8.6", "fp16", {f"a_layer_of_a_long_name_{i}": True for i in range(9000)}))
