"""Runs a part of a graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnxruntime import InferenceSession

from onnxgraft.errors import Refusal
from onnxgraft.ir.bounds import elements, refuse_bytes
from onnxgraft.ir.graph import IR_VERSION, Graph
from onnxgraft.ir.ort import open_session, told
from onnxgraft.ir.traverse import node_inputs

NEWEST = 21  # ONNX Runtime lacks some operators of opset 22, which differ from those of 21 in the types that they take

_FED = 4096  # numbers; an operator that wants a constant (a shape, axes, bounds) has fewer

T = TypeVar("T")


def run_everywhere(graph: Graph) -> None:
    """Give a graph and its functions an opset that ONNX Runtime runs, in place; a graph of bfloat16 must keep its own."""
    graph.gs.opset = min(graph.gs.opset, NEWEST)
    for function in graph.functions.values():
        for opset in function.opset_import:
            opset.version = min(opset.version, NEWEST)


def evaluate(
    graph: Graph, outputs: Sequence[gs.Tensor], feeds: dict[str, np.ndarray] | None = None
) -> list[np.ndarray]:
    """Run the part of the graph between `feeds` and `outputs` in ONNX Runtime, once.

    Args:
        graph: whose opset counts.
        outputs: tensors whose values are wanted.
        feeds: values of tensors that are known, by name, in the tensors' own shapes and dtypes.

    Returns:
        The values, one array an output.

    Raises:
        Refusal: when the part needs a graph input that is not fed, makes more than `graph.bytes_to_fold` bytes, or ONNX
            Runtime cannot run it.
    """
    return repeated(graph, outputs)(feeds or {})


class Part:
    """The part of a graph between tensors that are fed and outputs, opened once in ONNX Runtime to be run on several feeds.

    Large constants are fed from where they lie: written into a model, each would be copied three times.
    """

    def __init__(
        self, graph: Graph, outputs: Sequence[gs.Tensor], feeds: Mapping[str, np.ndarray], threads: int | None = 1
    ) -> None:
        """Open the part.

        Args:
            graph: whose opset counts.
            outputs: tensors whose values are wanted.
            feeds: values that are fed first, by name; each run feeds the same tensors, in any shape of that rank.
            threads: of one operator; None for as many as there are cores.

        Raises:
            Refusal: as `evaluate`.
        """
        nodes, constants = part_between(outputs, feeds)
        refuse_bytes(nodes, graph.bytes_to_fold)
        wanted = [t for t in outputs if not isinstance(t, gs.Constant)]
        self._names = [t.name for t in wanted]
        self._known = {t.name: np.array(t.values) for t in outputs if isinstance(t, gs.Constant)}
        if wanted:
            large = {name: c for name, c in constants.items() if _fed(c)}
            small = [c for name, c in constants.items() if name not in large]
            self._constants = {name: np.asarray(c.values) for name, c in large.items()}
            self._session = _opened(_model(graph, nodes, small, wanted, {**feeds, **self._constants}), threads)

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The values of the outputs by name; with `names`, of those alone.

        Raises:
            Refusal: ONNX Runtime cannot run it.
        """
        values = {name: array for name, array in self._known.items() if names is None or name in names}
        asked = [name for name in self._names if names is None or name in names]
        if asked:
            fed = {**feeds, **self._constants}
            values |= zip(asked, _told_refusal(lambda: self._session.run(asked, fed)), strict=True)
        return values


def repeated(
    graph: Graph, outputs: Sequence[gs.Tensor], threads: int | None = 1
) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """What runs a part as `evaluate` does, on several feeds of the same tensors; it is opened with the first ones.

    Args:
        threads: of one operator; None for as many as there are cores.

    Returns:
        A function of feeds that gives the values, one array an output. Raises Refusal as `evaluate` does.
    """
    part: Part | None = None

    def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        nonlocal part
        part = part or Part(graph, outputs, feeds, threads)
        values = part.run(feeds)
        return [values[t.name] for t in outputs]

    return run


def part_between(
    outputs: Sequence[gs.Tensor], feeds: Mapping[str, np.ndarray]
) -> tuple[list[gs.Node], dict[str, gs.Constant]]:
    """The nodes that make `outputs` of what is fed, in order, and the constants that they read, by name.

    Raises:
        Refusal: they depend on an input that is not fed.
    """
    nodes: list[gs.Node] = []
    seen: set[int] = set()
    constants: dict[str, gs.Constant] = {}
    unfed: gs.Tensor | None = None
    stack: list[tuple[gs.Tensor, bool]] = [(t, False) for t in outputs]
    while stack:
        tensor, done = stack.pop()
        if tensor.name in feeds:
            continue
        if isinstance(tensor, gs.Constant):
            constants[tensor.name] = tensor
            continue
        if not tensor.inputs:
            unfed = unfed or (tensor if tensor.name else None)
            continue
        node = tensor.inputs[0]
        if id(node) in seen:
            continue
        if done:
            seen.add(id(node))
            nodes.append(node)
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in node_inputs(node)]
    if unfed is not None:
        _refuse_unfed(nodes, feeds, unfed)
    return nodes, constants


def _refuse_unfed(nodes: Sequence[gs.Node], feeds: Mapping[str, np.ndarray], unfed: gs.Tensor) -> NoReturn:
    """Raises Refusal with the last node that reads, beside what follows from what is fed, what depends on another input.

    Args:
        nodes: of a part, in order.
        unfed: such an input.
    """
    follows, last = set(feeds), None
    for node in nodes:
        reads = [t.name for t in node_inputs(node) if not isinstance(t, gs.Constant) and t.name]
        others = [name for name in reads if name not in follows]
        if not others:
            follows.update(t.name for t in node.outputs)
        elif len(others) < len(reads):
            last = node.name, others[0]
    if last is not None:
        given = ", ".join(repr(name) for name in [*feeds][:3])
        raise Refusal(f"{last[1]!r} is read here, which does not follow from {given} alone but from {unfed.name!r}", last[0])
    reader = unfed.outputs[0].name if unfed.outputs else None
    raise Refusal(f"tensor {unfed.name!r} depends on an input that is not known offline", reader)


def _model(
    graph: Graph, nodes: Sequence[gs.Node], constants: Iterable[gs.Constant], outputs: Sequence[gs.Tensor],
    feeds: Mapping[str, np.ndarray],
) -> onnx.ModelProto:  # fmt: skip
    proto = onnx.GraphProto(name="part")
    exporter = gs.exporters.onnx_exporter.OnnxExporter
    inputs = [gs.Variable(name, array.dtype, [None] * array.ndim) for name, array in feeds.items()]
    proto.node.extend(exporter.export_node(node) for node in nodes)
    proto.input.extend(exporter.export_value_info_proto(t, True) for t in inputs)
    proto.output.extend(onnx.ValueInfoProto(name=t.name) for t in outputs)
    for constant in constants:
        proto.initializer.append(onnx.numpy_helper.from_array(np.array(constant.values), constant.name))
    opset = onnx.helper.make_opsetid("", min(graph.gs.opset, NEWEST))
    return onnx.helper.make_model(proto, ir_version=IR_VERSION, opset_imports=[opset])


def _fed(constant: gs.Constant) -> bool:
    return elements(constant.shape) > _FED and np.dtype(constant.dtype).kind in "fiub"


def _opened(model: onnx.ModelProto, threads: int | None) -> InferenceSession:
    return _told_refusal(lambda: open_session(model.SerializeToString(), threads=threads, optimize=False))


def _told_refusal(work: Callable[[], T]) -> T:
    try:
        return work()
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise Refusal(f"cannot evaluate offline: {told(error)}") from None
