"""bench --layers: what the builder of TensorRT for RTX makes of a build's graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxgraft.driver.compile import compile
from onnxgraft.errors import InputError
from onnxgraft.options import Options, Size
from onnxgraft.targets.engine_info import LayerInfo
from onnxgraft.tools.benchmark.layers import counted, layers


def test_layers_are_counted_by_kind_and_types() -> None:
    def layer(kind: str, reads: str, writes: str, size: int, nodes: int = 1) -> LayerInfo:
        return LayerInfo("n", kind, (reads,), (), (writes,), ("x",) * nodes, size, 2 * size)

    rows = counted([layer("a", "Half", "Half", 2**20), layer("b", "Int8", "Half", 2**22, 3), layer("a", "Half", "Half", 2**20)])
    assert [row[:5] for row in rows[1:]] == [
        ("b", "Int8", "Half", "1", "3"), ("a", "Half", "Half", "2", "2"), ("all", "", "", "3", "5"),
    ]  # fmt: skip
    assert [row[5:] for row in rows[1:]] == [("4.0", "8.0"), ("2.0", "4.0"), ("6.0", "12.0")]


def test_a_target_without_layers_is_refused(tmp_path: Path) -> None:
    options = Options(size=Size(256, 320), target="onnxruntime", checks=False, proof=False)
    compile("rpn_C4_thin", tmp_path / "run", options)
    with pytest.raises(InputError, match="there is no engine file"):
        layers(tmp_path / "run")
