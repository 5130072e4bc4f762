"""A graph as an ONNX model, in messages that are remembered: a pass changes few nodes, and the graph is exported after each.

What onnx_graphsurgeon's exporter makes, message by message, is kept by what it was made of, so that only what is new is exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, update_import_domains
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnxgraft.ir.serde import Skeleton, Weight, mark_external
from onnxgraft.ir.weights import MappedValues, weight_of
from onnxgraft.ir.wire import GRAPH_INITIALIZER, MODEL_GRAPH, opening

IR_VERSION = 10  # what ONNX Runtime and TensorRT of 2024 and later read; graphsurgeon would write the newest
PLUGIN_DOMAIN = "onnxgraft"

_NODE, _INPUT, _OUTPUT, _VALUE_INFO, _SPARSE = 1, 11, 12, 13, 15  # fields of a GraphProto (onnx.proto)
_PLAIN = frozenset({bool, int, float, str, bytes, np.int32, np.int64, np.float32, np.float64, type})


@dataclass(frozen=True)
class Exported:
    """A graph's messages, serialized, each as a field of its graph or model.

    Attributes:
        rest: of the model all but the graph: opsets, functions.
        names: name and comment of the graph.
        nodes, inputs, outputs, values, constants: fields of the graph.
        small: the constants that are held as a whole.
        large: headers of the other ones, whose bytes stay where they are.
        weights: places of these bytes by name.
    """

    rest: bytes
    names: bytes
    nodes: tuple[bytes, ...]
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    values: tuple[bytes, ...]
    constants: tuple[bytes, ...]
    small: tuple[bytes, ...]
    large: tuple[onnx.TensorProto, ...]
    weights: dict[str, Weight]

    def skeleton(self) -> Skeleton:
        """The model, whose large weights are left in place; a new one each time."""
        return Skeleton(onnx.ModelProto.FromString(self.model()), self.weights)

    def model(self) -> bytes:
        """The model, serialized, whose large weights are left in place."""
        return self._with(self.inputs, self.constants)

    def checkable(self) -> bytes:
        """The model with its large constants as inputs: so they have a type and need no file, which ONNX's checker would open."""
        infos = (onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in self.large)
        return self._with([*self.inputs, *(_field(_INPUT, info) for info in infos)], self.small)

    def _with(self, inputs: Iterable[bytes], constants: Iterable[bytes]) -> bytes:
        graph = b"".join((self.names, *self.nodes, *inputs, *self.outputs, *self.values, *constants))
        return b"".join((self.rest, opening(MODEL_GRAPH, len(graph)), graph))


class Exporter:
    """Exports the stages of one graph."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], bytes] = {}
        self._infos: dict[tuple[Any, ...], bytes] = {}

    def export(self, graph: gs.Graph, functions: Sequence[onnx.FunctionProto]) -> Exported:
        """The graph as it stands, with its model-local functions."""
        tensors = graph.tensors()
        held = [t for t in tensors.values() if isinstance(t, gs.Constant)]
        places = {t.name: weight for t in held if (weight := weight_of(t)) is not None}
        before = {id(t): t._values for t in held if t.name in places}
        headers = []
        try:
            for tensor in (t for t in held if id(t) in before):
                headers.append(_header(tensor, places[tensor.name]))
                tensor._values = MappedValues(headers[-1], places[tensor.name])  # for subgraphs, too, that read one
            nodes = tuple([self._node(node) for node in graph.nodes])
            constants = tuple([_constant(t) for t in held])
        finally:
            for tensor in (t for t in held if id(t) in before):
                tensor._values = before[id(tensor)]
        small = tuple([c for t, c in zip(held, constants, strict=True) if id(t) not in before])
        ends = {t.name for t in (*graph.inputs, *graph.outputs)}
        infos = [self._info(_VALUE_INFO, t) for name, t in tensors.items() if name not in ends and _typed(t)]
        return Exported(
            _rest(graph, functions), _names(graph), nodes, tuple([self._info(_INPUT, t) for t in graph.inputs]),
            tuple([self._info(_OUTPUT, t) for t in graph.outputs]), tuple(infos), constants, small,
            tuple(headers), places,
        )  # fmt: skip

    def _node(self, node: gs.Node) -> bytes:
        attributes = node.attrs
        if attributes and not all(map(_plain, attributes.values())):  # tensors and subgraphs, which change in place
            return _field(_NODE, OnnxExporter.export_node(node))
        key = (node.op, node.domain, node.name, tuple([t.name for t in node.inputs]), tuple([t.name for t in node.outputs]),
               repr(attributes) if attributes else "")  # fmt: skip
        found = self._nodes.get(key)
        return found or self._nodes.setdefault(key, _field(_NODE, OnnxExporter.export_node(node)))

    def _info(self, field: int, tensor: gs.Tensor) -> bytes:
        shape = tensor.shape
        key = (field, tensor.name, tensor.dtype, None if shape is None else tuple(shape), getattr(tensor, "type", None))
        found = self._infos.get(key)
        return found or self._infos.setdefault(key, _field(field, OnnxExporter.export_value_info_proto(tensor, False)))


def _plain(value: Any) -> bool:
    """Whether its repr says all of an attribute."""
    if type(value) is list:
        return not value or type(value[0]) in _PLAIN
    return type(value) in _PLAIN


def _typed(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Variable) and (tensor.dtype is not None or tensor.shape is not None)


def _field(number: int, message: Any) -> bytes:
    held = message.SerializeToString()
    return opening(number, len(held)) + held


def _header(tensor: gs.Constant, weight: Weight) -> onnx.TensorProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    proto = onnx.TensorProto(name=tensor.name, dims=tensor.shape, data_type=kind)
    mark_external(proto, weight)
    return proto


def _constant(tensor: gs.Constant) -> bytes:
    if isinstance(tensor._values, SparseValues):
        return _field(_SPARSE, OnnxExporter.export_sparse_tensor_proto(tensor))
    return _field(GRAPH_INITIALIZER, OnnxExporter.export_tensor_proto(tensor))


def _names(graph: gs.Graph) -> bytes:
    comment = {"doc_string": graph.doc_string} if graph.doc_string else {}
    held: bytes = onnx.GraphProto(name=graph.name, **comment).SerializeToString()
    return held


def _rest(graph: gs.Graph, functions: Sequence[onnx.FunctionProto]) -> bytes:
    domains = ["", *([PLUGIN_DOMAIN] if functions else [])]
    graph.import_domains = [onnx.helper.make_opsetid(d, 1 if d else graph.opset) for d in domains]
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="onnxgraft", producer_version="")
    model.opset_import.extend(update_import_domains(graph))
    model.functions.extend(OnnxExporter.export_function(function) for function in graph.functions)
    model.functions.extend(functions)
    held: bytes = model.SerializeToString()
    return held
