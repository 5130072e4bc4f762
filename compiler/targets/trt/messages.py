"""NVIDIA's messages: collected while a build runs, and told in one line that names the node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from onnxgraft.targets.trt.layers import HEADER, onnx_nodes

_SOURCE_TAIL = re.compile(r"\s*In \S+ at \S+?:\d+(?=\)?\s*$)")
_NO_DRIVER = re.compile(r"cudaError 35\b")  # only says that there is no GPU here
_FOREIGN = re.compile(r"ForeignNode\[(.+?)\.\.\.(.+?)\]")
_PARSER_ECHO = re.compile(r"^(ModelImporter\.cpp|In node )|^\s*\[\d+\]")


class Log:
    """The messages of one build: errors and warnings, and the builder's list of layers."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers = ""

    def add(self, rank: int, message: str) -> None:
        """`rank` is ILogger.Severity as a number: 0 internal error, 1 error, 2 warning, ..."""
        if rank <= 1:
            self.errors.append(message)
        elif rank == 2:
            self.warnings.append(message)
        elif message.startswith(HEADER):
            self.layers = message


class _Sink:
    """TensorRT keeps the first logger of a process, so there is one per module, and it forwards."""

    def __init__(self, trt: ModuleType) -> None:
        self.current: Log | None = None
        sink = self

        class Logger(trt.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if sink.current is not None:
                    sink.current.add(int(severity), message)

        self.logger = Logger()


_sinks: dict[str, _Sink] = {}


def logger_of(trt: ModuleType) -> Any:
    """The one logger of a TensorRT module in this process."""
    if trt.__name__ not in _sinks:
        _sinks[trt.__name__] = _Sink(trt)
    return _sinks[trt.__name__].logger


@contextmanager
def collected(trt: ModuleType) -> Iterator[Log]:
    """Collect what the module's logger says inside the `with` block."""
    logger_of(trt)
    sink = _sinks[trt.__name__]
    previous, sink.current = sink.current, Log()
    try:
        yield sink.current
    finally:
        sink.current = previous


@dataclass(frozen=True)
class Culprit:
    """The ONNX node an error is about; empty strings where NVIDIA does not say."""

    name: str = ""
    op: str = ""

    def text(self, provenance: Mapping[str, str]) -> str:
        """ "NonZero node 'keep' (made by pass 'rpn-nms')"."""
        if not self.name and not self.op:
            return ""
        words = f"{self.op or 'a'} node" + (f" {self.name!r}" if self.name else " without a name")
        made_by = provenance.get(self.name)
        return words + (f" (made by pass {made_by!r})" if made_by else "")


def tidy(message: str) -> str:
    """One line, without the place in NVIDIA's own source files."""
    line = " ".join(message.split())
    return _SOURCE_TAIL.sub("", line).strip()


def parser_refusal(parser: Any, log: Log) -> tuple[Culprit, str]:
    """The node and the text of the first thing the ONNX parser refused."""
    if not parser.num_errors:
        return Culprit(), tidy(log.errors[0]) if log.errors else "the parser gave no reason"
    error = parser.get_error(0)
    code = str(error.code()).rpartition(".")[2]
    text = f"{tidy(error.desc())} [{code}, {error.func()}]"
    stack = list(error.local_function_stack() or ())
    if stack:
        text += f" in function {' > '.join(stack)}"
    earlier = [m for m in log.errors if not _PARSER_ECHO.search(m)]
    if earlier:
        text += f"; before it: {tidy(earlier[0])}"
    return Culprit(error.node_name(), error.node_operator()), text


def build_refusal(network: Any, model: Path, log: Log) -> tuple[Culprit, str]:
    """The node and the text of the first thing the builder refused."""
    if not log.errors:
        return Culprit(), "the builder gave no reason"
    text = tidy(next((m for m in log.errors if not _NO_DRIVER.search(m)), log.errors[0]))
    mentioned = [
        (len(known), name) for known, name in _node_names(network) if _mentions(text, known)
    ]
    if not mentioned:
        return Culprit(), text
    name = max(mentioned)[1]
    return Culprit(name, _op_of(model, name)), text


def _node_names(network: Any) -> Iterator[tuple[str, str]]:
    """What a message may call a node (its own name, its layer's) and the node's name."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        nodes = onnx_nodes(layer.metadata)
        yield layer.name, nodes[0] if nodes else layer.name
        yield from ((node, node) for node in nodes)


def _mentions(text: str, name: str) -> bool:
    if len(name) < 2:
        return f"'{name}'" in text
    for first, last in _FOREIGN.findall(text):
        if name in (first, last):
            return True
    # TensorRT numbers layers of the same name: nms, nms_0, nms_1
    return re.search(rf"(?<![\w/.]){re.escape(name)}(_\d+)?(?![\w/.])", text) is not None


def _op_of(model: Path, name: str) -> str:
    """The op of a named node, also inside Loop and If bodies; read only after a failure."""
    graph = onnx.load(str(model), load_external_data=False).graph
    graphs = [graph]
    while graphs:
        for node in graphs.pop().node:
            if node.name == name:
                return str(node.op_type)
            graphs += [a.g for a in node.attribute if a.HasField("g")]
    return ""
