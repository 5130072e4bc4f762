"""A graph as text: one line a node, for diffs, golden files and the fingerprint.

Named text keeps the tensors' names, so that two stages of one compilation diff well. Canonical text renumbers every
value in topological order, so that two files that differ in names only read the same.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import onnx_graphsurgeon as gs

from onnxgraft.ir.exporting import plain
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.serde import Weight
from onnxgraft.ir.value_text import Value, mapped_digest, scalar_text, type_text, value_of, value_text

_HELD = 1 << 14
_MARK = secrets.token_hex(8)  # nothing that a file can hold
_MARKED = re.compile(f"{_MARK}(\\d+){_MARK}")
_ATTRIBUTES: dict[str, str] = {}  # texts of attributes by their repr: most nodes share theirs with others


def lines(graph: Graph, canonical: bool = False, values: _Values | None = None) -> Iterator[str]:
    """The text of a graph, line by line."""
    names = _Names(canonical, values=values)
    for tensor in graph.gs.inputs:
        # A graph's inputs and outputs are its interface: renaming one is a change even in canonical text.
        yield f"input {names.define(tensor)} {tensor.name}: {type_text(tensor)}"
    yield from _nodes(graph.gs, names, "")
    for tensor in graph.gs.outputs:
        yield f"output {names.use(tensor)} {tensor.name}: {type_text(tensor)}"
    for name in sorted(graph.functions):
        body = graph.functions[name].SerializeToString(deterministic=True)
        yield f"function {name} #{hashlib.blake2b(body, digest_size=6).hexdigest()}"


def text(graph: Graph, canonical: bool = False) -> str:
    return "\n".join(lines(graph, canonical)) + "\n"


def _nodes(graph: gs.Graph, names: _Names, indent: str) -> Iterator[str]:
    for node in graph.nodes:
        inputs = ", ".join(names.use(tensor) for tensor in node.inputs)
        outputs = ", ".join(f"{names.define(tensor)}: {names.type(tensor)}" for tensor in node.outputs)
        domain = f"{node.domain}::" if node.domain else ""
        yield f"{indent}{outputs} = {domain}{node.op}({inputs}){names.attributes(node)}"
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
        return _attributes({k: v for k, v in attributes.items() if not isinstance(v, gs.Graph)})
    if len(_ATTRIBUTES) > _HELD:
        _ATTRIBUTES.clear()
    key = repr(attributes)
    return _ATTRIBUTES.get(key) or _ATTRIBUTES.setdefault(key, _attributes(attributes))


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


def _attributes(attrs: Mapping[str, Any]) -> str:
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
    return scalar_text(value)


class _Values(dict[int, Value]):
    """What is said of constants, by their id; of types and attributes, too.

    Weights in a file stand in texts as marks, which `filled` replaces.
    """

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[int, str] = {}
        self.attributes: dict[int, str] = {}
        self.weights: list[Weight] = []

    def value(self, tensor: gs.Constant) -> Value:
        return self.get(id(tensor)) or self.setdefault(id(tensor), value_of(tensor))

    def of(self, tensor: gs.Constant) -> str:
        found = self.value(tensor)
        if isinstance(found.values, str):
            return str(found)
        self.weights.append(found.values)
        return f"{found.head}{_MARK}{len(self.weights) - 1}{_MARK}"


def filled(marked: str, weights: Sequence[Weight]) -> str:
    """A text with the digests of its weights in place of their marks."""
    return _MARKED.sub(lambda mark: f"#{mapped_digest(weights[int(mark[1])])}", marked)


class _Names:
    """Names of values: their own, or numbers in order of appearance."""

    def __init__(self, canonical: bool, known: dict[int, str] | None = None, values: _Values | None = None) -> None:
        self.canonical = canonical
        self.known = known if known is not None else {}
        self._value = values.of if values is not None else value_text
        self._values = values

    def inner(self) -> _Names:
        return _Names(self.canonical, dict(self.known), self._values)

    def define(self, tensor: gs.Tensor) -> str:
        if not tensor.name:
            return "_"
        return self.known.setdefault(id(tensor), f"%{len(self.known)}" if self.canonical else tensor.name)

    def type(self, tensor: gs.Tensor) -> str:
        if self._values is None:
            return type_text(tensor)
        held = self._values.types
        return held.get(id(tensor)) or held.setdefault(id(tensor), type_text(tensor))

    def attributes(self, node: gs.Node) -> str:
        if not node.attrs or self._values is None:
            return attributes_text(node)
        held = self._values.attributes
        found = held.get(id(node))
        return held.setdefault(id(node), attributes_text(node)) if found is None else found

    def use(self, tensor: gs.Tensor) -> str:
        if isinstance(tensor, gs.Constant):
            return self._value(tensor) if self.canonical else f"{tensor.name}={self._value(tensor)}"
        return self.define(tensor)


def fingerprint(graph: Graph) -> str:
    """A hash over structure, attributes, types, shapes and weights; names of nodes do not count."""
    return hashlib.sha256("\n".join(lines(graph, canonical=True)).encode()).hexdigest()


class Text:
    """A graph's text, whose weights are read from their file when it is looked at, by `str`."""

    def __init__(self, marked: str, weights: Sequence[Weight] = ()) -> None:
        self._marked, self._weights = marked, weights

    @cached_property
    def _text(self) -> str:
        return filled(self._marked, self._weights)

    def __str__(self) -> str:
        return self._text


class Printed:
    """The text of a graph that nothing changes meanwhile, and what it says of its constants."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._values = graph, _Values()

    @cached_property
    def text(self) -> Text:
        """As `text`."""
        return Text("\n".join(lines(self._graph, values=self._values)) + "\n", self._values.weights)

    def value(self, tensor: gs.Constant) -> Value:
        """As `value_of`, of a constant of the graph."""
        return self._values.value(tensor)
