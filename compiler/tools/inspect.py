"""Says what detector an ONNX file holds, without compiling it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from onnxgraft.analysis import Account, analyse_and_account
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.passes import RepairRoiAlign, UpgradeOpset
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager


def inspect(
    path: str | Path, pooler_type: Literal["ROIAlignV2", "ROIAlign"] = "ROIAlignV2", bounds: int = 1
) -> tuple[DetectorSpec, list[str]]:
    """The detector in a file and notes about repairs; `bounds` widens what the file may ask for.

    Raises:
        InputError: not an ONNX file. Refusal: not a known detector; names the node and the reason.
    """
    spec, _, notes = inspect_nodes(path, pooler_type, bounds)
    return spec, notes


def inspect_nodes(
    path: str | Path, pooler_type: Literal["ROIAlignV2", "ROIAlign"] = "ROIAlignV2", bounds: int = 1
) -> tuple[DetectorSpec, Account, list[str]]:
    """As `inspect`, with what every node of the simplified graph is there for.

    Raises:
        InputError: not an ONNX file. Refusal: not a known detector; names the node and the reason.
    """
    graph, ctx = Graph.load(path, Bounds.times(bounds)), Context()
    PassManager([UpgradeOpset(), RepairRoiAlign(pooler_type=pooler_type)], fingerprints=False).run(graph, ctx)
    settle(graph)
    return (*analyse_and_account(graph), ctx.notes)


