"""Holds passes to what they promise: what they do not say they modify stays as it is."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import PassError
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.traverse import tensors
from onnxgraft.ir.value_text import Value, value_of
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import PassRecord


class Promises(Instrument):
    """Raises PassError when a pass loses an output or an input, or gives one another type, or puts other values into a
    weight, without declaring so in `Pass.modifies`. Facts are the manager's, which checks them with or without this."""

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        self._inputs = _types(graph.gs.inputs)
        self._outputs = _types(graph.gs.outputs)
        self._weights = graph.observed(_weights)

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        declared = step.modified()
        problem = (
            ("outputs" not in declared and _lost("output", self._outputs, _types(graph.gs.outputs)))
            or ("inputs" not in declared and _lost("input", self._inputs, _types(graph.gs.inputs)))
            or ("weights" not in declared and _rewritten(self._weights, graph.observed(_weights)))
        )
        if problem:
            raise PassError(record.name, problem)
        return record


def _types(tensors: list[gs.Tensor]) -> dict[str, np.dtype | None]:
    return {t.name: None if t.dtype is None else np.dtype(t.dtype) for t in tensors}


def _lost(kind: str, before: dict[str, np.dtype | None], after: dict[str, np.dtype | None]) -> str | None:
    for name, dtype in before.items():
        if name not in after:
            return f'lost the graph\'s {kind} {name!r}; a pass that means to declares modifies = ("{kind}s",)'
        if dtype is not None and after[name] not in (None, dtype):
            return (f"made the {kind} {name!r} {after[name]}, which was {dtype}; "
                    f"a pass that means to declares modifies = (\"{kind}s\",)")  # fmt: skip
    return None


def _weights(graph: Graph) -> dict[str, Value]:
    return {name: value_of(t) for name, t in tensors(graph.gs).items() if isinstance(t, gs.Constant)}


def _rewritten(before: dict[str, Value], after: dict[str, Value]) -> str | None:
    for name, held in after.items():
        was = before.get(name, held)
        if was != held and str(was) != str(held):  # a file's bytes are read only to be compared with others
            return (f"changed the values of weight {name!r} from {was} to {held}; make a new constant of "
                    'another name, or declare modifies = ("weights",)')  # fmt: skip
    return None
