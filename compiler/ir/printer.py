"""A graph as text: one line a node, for diffs, golden files and the fingerprint.

Named text keeps the tensors' names, so that two stages of one compilation diff well. Canonical text renumbers every
value in topological order, so that two files that differ in names only read the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.ir.exporting import plain
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.value_text import scalar_text, type_text, value_text

_HELD = 1 << 14
_ATTRIBUTES: dict[str, str] = {}  # texts of attributes by their repr: most nodes share theirs with others


def lines(graph: Graph, canonical: bool = False) -> Iterator[str]:
    """The text of a graph, line by line."""
    names = _Names(canonical)
    for tensor in graph.gs.inputs:
        # A graph's inputs and outputs are its interface: renaming one is a change even in canonical text.
        yield f"input {names.define(tensor)} {tensor.name}: {type_text(tensor)}"
    yield from _nodes(graph.gs, names, "")
    for tensor in graph.gs.outputs:
        yield f"output {names.use(tensor)} {tensor.name}: {type_text(tensor)}"
    for name in sorted(graph.functions):
        yield function_line(graph.functions[name])


def function_line(function: onnx.FunctionProto) -> str:
    """What a text says of a model-local function."""
    body = function.SerializeToString(deterministic=True)
    return f"function {function.name} #{hashlib.blake2b(body, digest_size=6).hexdigest()}"


def text(graph: Graph, canonical: bool = False) -> str:
    return "\n".join(lines(graph, canonical)) + "\n"


def _nodes(graph: gs.Graph, names: _Names, indent: str) -> Iterator[str]:
    for node in graph.nodes:
        inputs = ", ".join(names.use(tensor) for tensor in node.inputs)
        outputs = ", ".join(f"{names.define(tensor)}: {type_text(tensor)}" for tensor in node.outputs)
        domain = f"{node.domain}::" if node.domain else ""
        yield f"{indent}{outputs} = {domain}{node.op}({inputs}){attributes_text(node)}"
        for key, value in sorted(node.attrs.items()) if node.attrs else ():
            if isinstance(value, gs.Graph):
                inner = names.inner()
                arguments = ", ".join(inner.define(tensor) for tensor in value.inputs)
                yield f"{indent}  {key}({arguments}):"
                yield from _nodes(value, inner, indent + "    ")
                yield f"{indent}    return {', '.join(inner.use(tensor) for tensor in value.outputs)}"


def attributes_text(node: gs.Node) -> str:
    """A node's attributes without its subgraphs: " {axis=0}", or nothing."""
    attributes = node.attrs
    if not attributes:
        return ""
    if not all(map(plain, attributes.values())):
        return attributes_of({k: v for k, v in attributes.items() if not isinstance(v, gs.Graph)})
    if len(_ATTRIBUTES) > _HELD:
        _ATTRIBUTES.clear()
    key = repr(attributes)
    return _ATTRIBUTES.get(key) or _ATTRIBUTES.setdefault(key, attributes_of(attributes))


def body_text(node: gs.Node) -> str:
    """A node's subgraphs in canonical text; nothing when it has none."""
    found = []
    for key, value in sorted(node.attrs.items()):
        if isinstance(value, gs.Graph):
            names = _Names(canonical=True)
            found += [
                key,
                *map(names.define, value.inputs),
                *_nodes(value, names, "  "),
                *map(names.use, value.outputs),
            ]
    return "\n".join(found)


def attributes_of(attrs: Mapping[str, Any]) -> str:
    """Attributes without subgraphs: " {axis=0}", or nothing."""
    if not attrs:
        return ""
    return " {" + ", ".join(f"{key}={_attribute(value)}" for key, value in sorted(attrs.items())) + "}"


def _attribute(value: Any) -> str:
    if isinstance(value, gs.Constant):
        return value_text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_attribute(v) for v in value) + "]"
    if isinstance(value, float):
        return str(np.float32(value))  # as ONNX holds it
    return str(int(value)) if isinstance(value, bool) else scalar_text(value)


class _Names:
    """Names of values: their own, or numbers in order of appearance."""

    def __init__(self, canonical: bool, known: dict[int, str] | None = None) -> None:
        self.canonical = canonical
        self.known = known if known is not None else {}

    def inner(self) -> _Names:
        return _Names(self.canonical, dict(self.known))

    def define(self, tensor: gs.Tensor) -> str:
        if not tensor.name:
            return "_"
        return self.known.setdefault(id(tensor), f"%{len(self.known)}" if self.canonical else tensor.name)

    def use(self, tensor: gs.Tensor) -> str:
        if isinstance(tensor, gs.Constant):
            return value_text(tensor) if self.canonical else f"{tensor.name}={value_text(tensor)}"
        return self.define(tensor)


def fingerprint(graph: Graph) -> str:
    """A hash over structure, attributes, types, shapes and weights; names of nodes do not count."""
    return hashlib.sha256("\n".join(lines(graph, canonical=True)).encode()).hexdigest()
