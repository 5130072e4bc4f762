"""An ONNX model as an onnx_graphsurgeon graph, object for object what its own importer makes, in a third of the time.

A build and its proof read a graph a dozen times. The importer's time goes into lists that are synchronized while they are
filled and into asking each tensor for its type, field by field; here types are remembered by their bytes, and objects are
filled directly.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.importers.onnx_importer import (
    OnnxImporter,
    get_itemsize,
    get_onnx_tensor_dtype,
    get_onnx_tensor_shape,
    get_onnx_tensor_type,
)
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.util.misc import SynchronizedList

Tensors = dict[str, gs.Tensor]
_Type = tuple[Any, tuple[int | str | None, ...] | None, str | None]  # dtype, shape and kind of a tensor
_UNKNOWN: _Type = (None, None, "tensor_type")
_ATTRIBUTE = onnx.AttributeProto


def import_model(model: onnx.ModelProto) -> gs.Graph:
    """The graph of a model, as gs.import_onnx gives it. Raises what that raises."""
    if model.functions:
        return gs.import_onnx(model)
    importer = Importer(OnnxImporter.get_opset(model), OnnxImporter.get_import_domains(model))
    names = {"producer_name": model.producer_name, "producer_version": model.producer_version, "ir_version": model.ir_version}
    return importer.graph(model.graph, {}, functions=[], **names)


class Importer:
    """Imports the graphs of one model. opset, domains: that they have in common."""

    def __init__(self, opset: int | None, domains: Any) -> None:
        self.opset, self.domains = opset, domains
        self._types: dict[bytes, _Type] = {b"": _UNKNOWN}
        self._elements: dict[int, tuple[Any, int]] = {}  # dtype and bytes of an element

    def graph(self, proto: onnx.GraphProto, outer: Mapping[str, gs.Tensor], **names: Any) -> gs.Graph:
        """A graph that may read the tensors of those around it."""
        own: Tensors = {}
        for initializer in proto.initializer:
            if initializer.name not in own and initializer.name not in outer:
                own[initializer.name] = self.constant(initializer)
        for sparse in proto.sparse_initializer:
            if sparse.values.name not in own and sparse.values.name not in outer:
                own[sparse.values.name] = OnnxImporter.import_tensor(sparse)
        for info in proto.value_info:
            self._known(info, own, outer)
        constants = {i.name for i in proto.initializer} | {i.values.name for i in proto.sparse_initializer}
        inputs = [self._end(info, own) for info in proto.input if info.name not in constants]
        outputs = [self._end(info, own) for info in proto.output]
        nodes = [self._node(node, own, outer) for node in proto.node]
        return gs.Graph(nodes=nodes, inputs=inputs, outputs=outputs, name=proto.name, doc_string=proto.doc_string,
                        opset=self.opset, import_domains=self.domains, **names)  # fmt: skip

    def _known(self, info: onnx.ValueInfoProto, own: Tensors, outer: Mapping[str, gs.Tensor]) -> None:
        """A tensor whose type is told; told twice, each time may say what the other does not."""
        name = info.name
        held = own.get(name)
        if held is None:
            if name not in outer:
                own[name] = self.variable(info)
        elif isinstance(held, gs.Variable):
            other = self.variable(info)
            held.dtype = held.dtype or other.dtype
            held.shape = held.shape or other.shape

    def _end(self, info: onnx.ValueInfoProto, own: Tensors) -> gs.Tensor:
        """An input or output, which no graph around it gives."""
        held = own.get(info.name)
        if held is None:
            held = own[info.name] = self.variable(info)
        return held

    def variable(self, info: onnx.ValueInfoProto) -> gs.Variable:
        """A tensor that is neither made nor read yet."""
        told = info.type.SerializeToString()
        found = self._types.get(told)
        if found is None:
            shape = get_onnx_tensor_shape(info)
            found = (get_onnx_tensor_dtype(info), None if shape is None else tuple(shape), get_onnx_tensor_type(info))
            self._types[told] = found
        return _variable(info.name, found)

    def constant(self, proto: onnx.TensorProto) -> gs.Constant:
        """A constant that nothing reads yet."""
        found = self._elements.get(proto.data_type)
        if found is None:
            dtype = get_onnx_tensor_dtype(proto)
            found = self._elements[proto.data_type] = dtype, get_itemsize(dtype)
        values = LazyValues.__new__(LazyValues)
        values.__dict__.update(tensor=proto, shape=proto.dims, dtype=found[0], nbytes=math.prod(proto.dims) * found[1])
        place = int(proto.data_location) if proto.HasField("data_location") else None
        made = gs.Constant.__new__(gs.Constant)
        made.__dict__.update(name=proto.name, inputs=_synchronized(made, "outputs"), outputs=_synchronized(made, "inputs"),
                             _values=values, data_location=place, _export_dtype=None)  # fmt: skip
        return made

    def _node(self, proto: onnx.NodeProto, own: Tensors, outer: Mapping[str, gs.Tensor]) -> gs.Node:
        attrs = OrderedDict[str, Any]()
        for attribute in proto.attribute:
            attrs.update(self.attribute(attribute, own, outer))
        made = gs.Node.__new__(gs.Node)
        read = [_tensor(name, own, outer) for name in proto.input]
        given = [_tensor(name, own, {}) for name in proto.output]
        domain = proto.domain if proto.HasField("domain") else None
        made.__dict__.update(op=proto.op_type, name=proto.name, attrs=attrs, inputs=_synchronized(made, "outputs", read),
                             outputs=_synchronized(made, "inputs", given), domain=domain)  # fmt: skip
        for tensor in read:
            list.append(tensor.outputs, made)
        for tensor in given:
            list.append(tensor.inputs, made)
        return made

    def attribute(
        self, proto: onnx.AttributeProto, own: Tensors, outer: Mapping[str, gs.Tensor]
    ) -> Iterable[tuple[str, Any]]:
        """The attribute under its name; nothing for a kind that graphsurgeon passes over."""
        kind = proto.type
        if proto.ref_attr_name:
            return OnnxImporter.import_attributes([proto], outer, own, self.opset, self.domains).items()
        if kind == _ATTRIBUTE.INT:
            return ((proto.name, proto.i),)
        if kind == _ATTRIBUTE.INTS:
            return ((proto.name, list(proto.ints)),)
        if kind == _ATTRIBUTE.TENSOR:
            return ((proto.name, self.constant(proto.t)),)
        if kind == _ATTRIBUTE.GRAPH:
            return ((proto.name, self.graph(proto.g, {**outer, **own})),)
        return OnnxImporter.import_attributes([proto], outer, own, self.opset, self.domains).items()


def _tensor(name: str, own: Tensors, outer: Mapping[str, gs.Tensor]) -> gs.Tensor:
    """The tensor of that name, a new one where nothing has told of it; no name stands for an input that is left out."""
    held = own.get(name)
    if held is None:
        held = outer.get(name)
        if held is None:
            held = _variable(name, _UNKNOWN)
            if name:
                own[name] = held
    return held


def _variable(name: str, kind: _Type) -> gs.Variable:
    made = gs.Variable.__new__(gs.Variable)
    dtype, shape, type_ = kind
    made.__dict__.update(name=name, inputs=_synchronized(made, "outputs"), outputs=_synchronized(made, "inputs"), dtype=dtype,
                         shape=None if shape is None else list(shape), type=type_)  # fmt: skip
    return made


def _synchronized(parent: gs.Tensor | gs.Node, field: str, held: Iterable[Any] = ()) -> SynchronizedList:
    """The list of a tensor or node; that the other side lists its parent is left to the caller."""
    made = SynchronizedList.__new__(SynchronizedList)
    list.extend(made, held)
    made.__dict__.update(parent_obj=parent, field_name=field)
    return made
