"""Says what detector an ONNX file holds, without compiling it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from onnxgraft.analysis import Account, analyse_and_account
from onnxgraft.analysis.canvas import take_resize_out
from onnxgraft.analysis.output_forms import hold_forms, undo_forms
from onnxgraft.detector.output_forms import forms_note
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.shape_inference import is_static
from onnxgraft.passes import RepairRoiAlign, UpgradeOpset
from onnxgraft.passes.emit.plain_input import form_note, make_plain
from onnxgraft.passes.fix_input import resize_image
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager

_AXES = 3  # of a picture
_OPEN = (640, 640)  # pixels; what a picture of any size is looked at as


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
    form = make_plain(graph)
    if any(len(t.shape or ()) == _AXES and not is_static(t) for t in graph.gs.inputs):
        resize_image(graph, *_OPEN)
        ctx.notes.append(f"the size is left open: looked at as {_OPEN[0]}x{_OPEN[1]}")
    if graph.gs.inputs and is_static(graph.gs.inputs[0]):
        take_resize_out(graph)
    settle(graph)
    shape = graph.gs.inputs[0].shape if graph.gs.inputs else None
    forms = undo_forms(graph, (shape[-2], shape[-1])) if shape is not None and len(shape) == _AXES else ()
    spec, account = analyse_and_account(graph)
    held = hold_forms(forms, spec)
    return replace(spec, output_forms=held), account, [*ctx.notes, *form_note(form, spec.image), *forms_note(held)]


