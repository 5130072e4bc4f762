"""A graph as an ONNX model, in messages that are remembered: a pass changes few nodes, and the graph is exported after each.

What onnx_graphsurgeon's exporter makes, message by message, is kept by what it was made of: only what is new is exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from onnxgraft.ir import traverse
from onnxgraft.ir.serde import Skeleton, Weight, mark_external
from onnxgraft.ir.weights import MappedValues, weight_of
from onnxgraft.ir.wire import GRAPH_INITIALIZER, MODEL_GRAPH, opening

IR_VERSION = 10  # what ONNX Runtime and TensorRT of 2024 and later read; graphsurgeon would write the newest
PLUGIN_DOMAIN = "onnxgraft"

# Numbers of fields (onnx.proto): of a GraphProto, then of a ValueInfoProto.
_NODE, _INPUT, _OUTPUT, _VALUE_INFO, _SPARSE = 1, 11, 12, 13, 15
_NAME, _TYPE = 1, 2
_SMALL = 4096  # bytes of a constant that is remembered by its values
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
        """The model with its large constants as inputs: they have a type then, and no file, which ONNX's checker would open."""
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
        self._headers: dict[tuple[Any, ...], tuple[bytes, onnx.TensorProto]] = {}
        self._attributes: dict[tuple[str, str], onnx.AttributeProto] = {}
        self._types: dict[tuple[Any, ...], bytes] = {}
        self._constants: dict[tuple[Any, ...], bytes] = {}

    def export(self, graph: gs.Graph, functions: Sequence[onnx.FunctionProto]) -> Exported:
        """The graph as it stands, with its model-local functions."""
        tensors = traverse.tensors(graph)
        held = [t for t in tensors.values() if isinstance(t, gs.Constant)]
        places = {t.name: weight for t in held if (weight := weight_of(t)) is not None}
        headers = {name: self._header(tensors[name], weight) for name, weight in places.items()}
        nodes = [self._node(node) for node in graph.nodes]
        others = [index for index, found in enumerate(nodes) if not found]
        with _in_place([t for t in held if t.name in places] if others else [], headers, places):
            for index in others:
                nodes[index] = _field(_NODE, OnnxExporter.export_node(graph.nodes[index]))
        small = [self._constant(t) for t in held if t.name not in places]
        each = iter(small)
        constants = [headers[t.name][0] if t.name in places else next(each) for t in held]
        ends = {t.name for t in (*graph.inputs, *graph.outputs)}
        infos = [self._info(_VALUE_INFO, t) for name, t in tensors.items() if name not in ends and _typed(t)]
        return Exported(
            _rest(graph, functions, [graph.nodes[index] for index in others]), _names(graph), tuple(nodes),
            tuple([self._info(_INPUT, t) for t in graph.inputs]), tuple([self._info(_OUTPUT, t) for t in graph.outputs]),
            tuple(infos), tuple(constants), tuple(small), tuple(header for _, header in headers.values()), places,
        )  # fmt: skip

    def _node(self, node: gs.Node) -> bytes:
        """The node's field; nothing for one with large tensors or subgraphs in its attributes, which change in place."""
        attributes = node.attrs
        told: Any = ""
        if attributes:
            told = repr(attributes) if all(map(plain, attributes.values())) else _told(attributes)
            if told is None:
                return b""
        key = (node.op, node.domain, node.name, tuple([t.name for t in node.inputs]), tuple([t.name for t in node.outputs]),
               told)  # fmt: skip
        found = self._nodes.get(key)
        return found or self._nodes.setdefault(key, _field(_NODE, self._new_node(node, key)))

    def _new_node(self, node: gs.Node, key: tuple[Any, ...]) -> onnx.NodeProto:
        op, domain, name, inputs, outputs, _ = key
        proto = onnx.NodeProto(op_type=op, input=inputs, output=outputs)
        if name:
            proto.name = name
        if domain is not None:
            proto.domain = domain
        for word, value in node.attrs.items():
            if not plain(value):
                proto.attribute.extend(OnnxExporter.export_attributes({word: value}))
                continue
            known = self._attributes.get((word, repr(value)))
            if known is None:
                (known,) = OnnxExporter.export_attributes({word: value})
                self._attributes[word, repr(value)] = known
            proto.attribute.append(known)
        return proto

    def _info(self, field: int, tensor: gs.Tensor) -> bytes:
        shape = tensor.shape
        key = (field, tensor.name, tensor.dtype, None if shape is None else tuple(shape), getattr(tensor, "type", None))
        found = self._infos.get(key)
        return found or self._infos.setdefault(key, self._new_info(field, tensor, key[2:]))

    def _new_info(self, field: int, tensor: gs.Tensor, key: tuple[Any, ...]) -> bytes:
        kind = self._types.get(key)
        if kind is None:
            held = OnnxExporter.export_value_info_proto(tensor, False)
            kind = self._types[key] = _field(_TYPE, held.type) if held.HasField("type") else b""
        name = tensor.name.encode()
        body = opening(_NAME, len(name)) + name + kind
        return opening(field, len(body)) + body

    def _header(self, tensor: gs.Constant, weight: Weight) -> tuple[bytes, onnx.TensorProto]:
        key = (tensor.name, tensor.dtype, tuple(tensor.shape), weight)
        if key not in self._headers:
            kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
            proto = onnx.TensorProto(name=tensor.name, dims=tensor.shape, data_type=kind)
            mark_external(proto, weight)
            self._headers[key] = _field(GRAPH_INITIALIZER, proto), proto
        return self._headers[key]

    def _constant(self, tensor: gs.Constant) -> bytes:
        values = tensor._values
        if isinstance(values, SparseValues):
            return _field(_SPARSE, OnnxExporter.export_sparse_tensor_proto(tensor))
        if not isinstance(values, np.ndarray) or values.nbytes > _SMALL or tensor.data_location is not None:
            return _field(GRAPH_INITIALIZER, OnnxExporter.export_tensor_proto(tensor))
        key = (tensor.name, values.dtype, tensor.export_dtype, values.shape, values.tobytes())
        found = self._constants.get(key)
        if found is None:
            found = self._constants[key] = _field(GRAPH_INITIALIZER, OnnxExporter.export_tensor_proto(tensor))
        return found


def _told(attributes: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What attributes say, small tensors by their bytes; None for more than that."""
    said: list[Any] = []
    for word, value in attributes.items():
        if plain(value):
            said.append((word, repr(value)))
            continue
        values: Any = value._values if isinstance(value, gs.Constant) else None
        if type(values) is LazyValues and values.nbytes <= _SMALL:
            said.append((word, value.name, value.export_dtype, value.data_location, values.tensor.SerializeToString()))
        else:
            return None
    return tuple(said)


def plain(value: Any) -> bool:
    """Whether the repr of an attribute says all of it."""
    if type(value) is list:
        return not value or type(value[0]) in _PLAIN
    return type(value) in _PLAIN


def _typed(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Variable) and (tensor.dtype is not None or tensor.shape is not None)


def _field(number: int, message: Any) -> bytes:
    held = message.SerializeToString()
    return opening(number, len(held)) + held


@contextmanager
def _in_place(
    large: Sequence[gs.Constant], headers: Mapping[str, tuple[bytes, onnx.TensorProto]], places: Mapping[str, Weight]
) -> Iterator[None]:
    """Let subgraphs that read a large constant export its header."""
    before = [tensor._values for tensor in large]
    try:
        for tensor in large:
            tensor._values = MappedValues(headers[tensor.name][1], places[tensor.name])
        yield
    finally:
        for tensor, values in zip(large, before, strict=True):
            tensor._values = values


def _names(graph: gs.Graph) -> bytes:
    comment = {"doc_string": graph.doc_string} if graph.doc_string else {}
    held: bytes = onnx.GraphProto(name=graph.name, **comment).SerializeToString()
    return held


def _rest(graph: gs.Graph, functions: Sequence[onnx.FunctionProto], others: Iterable[gs.Node]) -> bytes:
    used = {node.domain for node in graph.nodes if node.domain}
    for node in others:
        for inner in (value for value in node.attrs.values() if isinstance(value, gs.Graph)):
            used.update(n.domain for g in (inner, *inner.subgraphs(recursive=True)) for n in g.nodes if n.domain)
    domains = ["", *sorted(used | ({PLUGIN_DOMAIN} if functions else set()))]
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="onnxgraft", producer_version="")
    model.opset_import.extend(onnx.helper.make_opsetid(d, 1 if d else graph.opset) for d in domains)
    model.functions.extend(OnnxExporter.export_function(function) for function in graph.functions)
    model.functions.extend(functions)
    held: bytes = model.SerializeToString()
    return held
