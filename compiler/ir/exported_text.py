"""The text of an exported graph, as `printer.text` gives it: made of messages, most of which stages of a compilation share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import onnx
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from onnxgraft.ir import printer
from onnxgraft.ir.exporting import PLUGIN_DOMAIN, Exported
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.importing import Importer
from onnxgraft.ir.value_text import type_text, value_text
from onnxgraft.ir.weights import MappedValues

_HELD = 1 << 14  # messages whose text is remembered
_SMALL = 1 << 13  # bytes of a constant that is
_IMPORTER = Importer(None, None)


class _Line(NamedTuple):
    """What a node's message says. graphs: of its attributes, in the order of their names."""

    outputs: list[str]
    op: str
    inputs: list[str]
    attributes: str
    graphs: list[tuple[str, onnx.GraphProto]]


class _Scope(NamedTuple):
    """What is known of values by their names: what constants hold, and types."""

    constants: Mapping[str, str]
    types: Mapping[str, str]

    def use(self, name: str) -> str:
        held = self.constants.get(name)
        return name or "_" if held is None else f"{name}={held}"


class Text:
    """A graph's text, which is made when it is looked at, by `str`."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    @staticmethod
    def of(graph: Graph) -> Text:
        """Of a graph as it stands; at once where it cannot be exported, which is for others to refuse."""
        try:
            exported = graph.observed(Graph.exported)
        except Exception:
            return Text(partial(str, printer.text(graph)))
        return Text(partial(text, exported))

    @cached_property
    def _text(self) -> str:
        return self._make()

    def __str__(self) -> str:
        return self._text


def text(exported: Exported) -> str:
    """The text of the graph that was exported; weights that stand in a file are read from it now."""
    constants = dict(map(_constant, exported.constants))
    for proto in exported.large:
        held = _IMPORTER.constant(proto)
        held._values = MappedValues(proto, exported.weights[proto.name])
        constants[proto.name] = value_text(held)
    inputs, outputs = list(map(_info, exported.inputs)), list(map(_info, exported.outputs))
    scope = _Scope(constants, dict([*map(_info, exported.values), *inputs, *outputs]))
    lines = [f"input {name} {name}: {kind}" for name, kind in inputs]
    lines += _nodes(map(_line, exported.nodes), scope, "")
    lines += [f"output {scope.use(name)} {name}: {kind}" for name, kind in outputs]
    functions = [f for f in onnx.ModelProto.FromString(exported.rest).functions if f.domain == PLUGIN_DOMAIN]
    lines += map(printer.function_line, functions)
    return "\n".join(lines) + "\n"


def _nodes(lines: Iterable[_Line], scope: _Scope, indent: str) -> Iterator[str]:
    use, types = scope.use, scope.types
    for line in lines:
        inputs = ", ".join([use(name) for name in line.inputs])
        outputs = ", ".join([f"{name or '_'}: {types.get(name, '?')}" for name in line.outputs])
        yield f"{indent}{outputs} = {line.op}({inputs}){line.attributes}"
        for key, graph in line.graphs:
            inner = _inner(graph, scope)
            yield f"{indent}  {key}({', '.join(info.name for info in graph.input)}):"
            yield from _nodes(map(_said, graph.node), inner, indent + "    ")
            yield f"{indent}    return {', '.join(inner.use(info.name) for info in graph.output)}"


def _inner(graph: onnx.GraphProto, scope: _Scope) -> _Scope:
    """What a subgraph knows: what stands around it, and its own."""
    fresh = (proto for proto in graph.initializer if proto.name not in scope.constants)
    own = {proto.name: value_text(_IMPORTER.constant(proto)) for proto in fresh}
    return _Scope({**scope.constants, **own}, dict(map(_typed, (*graph.value_info, *graph.input, *graph.output))))


@lru_cache(_HELD)
def _line(field: bytes) -> _Line:
    return _said(onnx.GraphProto.FromString(field).node[0])


def _said(node: onnx.NodeProto) -> _Line:
    kept = {a.name: value for a in node.attribute if a.type != a.GRAPH for _, value in _IMPORTER.attribute(a, {}, {})}
    graphs = sorted(((a.name, a.g) for a in node.attribute if a.type == a.GRAPH), key=lambda pair: pair[0])
    op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    return _Line(list(node.output), op, list(node.input), printer.attributes_of(kept), graphs)


@lru_cache(_HELD)
def _info(field: bytes) -> tuple[str, str]:
    graph = onnx.GraphProto.FromString(field)
    return _typed((*graph.value_info, *graph.input, *graph.output)[0])


def _typed(info: onnx.ValueInfoProto) -> tuple[str, str]:
    return info.name, type_text(_IMPORTER.variable(info))


def _constant(field: bytes) -> tuple[str, str]:
    """Name and value; of one that stands in a file the value is not said here."""
    return _read(field) if len(field) > _SMALL else _remembered(field)


@lru_cache(_HELD)
def _remembered(field: bytes) -> tuple[str, str]:
    return _read(field)


def _read(field: bytes) -> tuple[str, str]:
    graph = onnx.GraphProto.FromString(field)
    if not graph.initializer:
        (sparse,) = graph.sparse_initializer
        return sparse.values.name, value_text(OnnxImporter.import_tensor(sparse))
    (proto,) = graph.initializer
    stored = proto.data_location == onnx.TensorProto.EXTERNAL
    return proto.name, "" if stored else value_text(_IMPORTER.constant(proto))
