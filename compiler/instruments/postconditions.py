"""Holds passes to what they promise: facts that they provide are true, and what they do not touch stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxgraft.errors import PassError
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.printer import value_text
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.record import PassRecord


class Promises(Instrument):
    """Raises PassError when a pass provides a fact that does not hold, or loses an output or an input, or gives one
    another type, or puts other values into a weight, without declaring so in `Pass.touches`."""

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        self._inputs = _types(graph.gs.inputs)
        self._outputs = _types(graph.gs.outputs)
        self._weights = _weights(graph)

    def after(self, step: Pass, graph: Graph, ctx: Context, record: PassRecord) -> PassRecord:
        problem = (
            _broken_fact(step, graph, ctx)
            or ("outputs" not in step.touches and _lost("output", self._outputs, _types(graph.gs.outputs)))
            or ("inputs" not in step.touches and _lost("input", self._inputs, _types(graph.gs.inputs)))
            or ("weights" not in step.touches and _rewritten(self._weights, _weights(graph)))
        )
        if problem:
            raise PassError(record.name, problem)
        return record


def _static_input(graph: Graph, ctx: Context) -> str | None:
    for tensor in graph.gs.inputs:
        if tensor.shape is None or not all(isinstance(d, (int, np.integer)) for d in tensor.shape):
            return f"input {tensor.name!r} has the shape {tensor.shape}"
    return None


def _detector(graph: Graph, ctx: Context) -> str | None:
    return None if ctx.detector is not None else "the context holds no DetectorSpec"


FACTS: dict[str, Callable[[Graph, Context], str | None]] = {"static-input": _static_input, "detector": _detector}


def _broken_fact(step: Pass, graph: Graph, ctx: Context) -> str | None:
    for fact in step.provides:
        problem = FACTS[fact](graph, ctx) if fact in FACTS else None
        if problem:
            return f"says that it provides {fact!r}, but {problem}"
    return None


def _types(tensors: list[gs.Tensor]) -> dict[str, np.dtype | None]:
    return {t.name: None if t.dtype is None else np.dtype(t.dtype) for t in tensors}


def _lost(kind: str, before: dict[str, np.dtype | None], after: dict[str, np.dtype | None]) -> str | None:
    for name, dtype in before.items():
        if name not in after:
            return f'lost the graph\'s {kind} {name!r}; a pass that means to declares touches = ("{kind}s",)'
        if dtype is not None and after[name] not in (None, dtype):
            return (f"made the {kind} {name!r} {after[name]}, which was {dtype}; "
                    f"a pass that means to declares touches = (\"{kind}s\",)")  # fmt: skip
    return None


def _weights(graph: Graph) -> dict[str, str]:
    return {name: value_text(t) for name, t in graph.gs.tensors().items() if isinstance(t, gs.Constant)}


def _rewritten(before: dict[str, str], after: dict[str, str]) -> str | None:
    for name, text in after.items():
        if before.get(name, text) != text:
            return (f"changed the values of weight {name!r} from {before[name]} to {text}; make a new constant of "
                    'another name, or declare touches = ("weights",)')  # fmt: skip
    return None
