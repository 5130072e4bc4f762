"""Refuses model files whose parts contradict themselves, before anything is built of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, TensorProto

from onnxgraft.errors import InputError
from onnxgraft.ir.bounds import Bounds, elements

_NEWEST = 1000  # opsets are whole numbers from 1 on
RANK = 32  # NumPy has 64 axes, ONNX Runtime fewer
_WIDTHS: dict[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.UINT8: 1, TensorProto.INT8: 1, TensorProto.UINT16: 2, TensorProto.INT16: 2,
    TensorProto.INT32: 4, TensorProto.INT64: 8, TensorProto.BOOL: 1, TensorProto.FLOAT16: 2, TensorProto.DOUBLE: 8,
    TensorProto.UINT32: 4, TensorProto.UINT64: 8, TensorProto.COMPLEX64: 8, TensorProto.COMPLEX128: 16,
}  # fmt: skip
_FIELDS: dict[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1), TensorProto.COMPLEX64: ("float_data", 2), TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2), TensorProto.INT64: ("int64_data", 1), TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
}  # fmt: skip


class Malformed(Exception):
    """A sentence on what is wrong, for the line that names the file."""


def refuse_malformed(model: onnx.ModelProto, where: str, bounds: Bounds) -> None:
    """Raises InputError naming the file and what is wrong; Refusal for more nodes than are allowed.

    Args:
        model: a skeleton: initializers of the main graph that are EXTERNAL have been resolved already.
        where: the file.
        bounds: what a model may hold.
    """
    try:
        _words((d.domain for d in model.opset_import), "the domain of an opset")
        wrong = next((d for d in model.opset_import if not 0 < d.version <= _NEWEST), None)
        if wrong is not None or all(d.domain not in ("", "ai.onnx") for d in model.opset_import):
            raise Malformed("it names no opset of ONNX" if wrong is None else f"opset {wrong.version} is no opset")
        _words((text for p in model.metadata_props for text in (p.key, p.value)), "a property of the model")
        count = _graph(model.graph, bounds, 0, 0, main=True)
        given = {tensor.name for tensor in model.graph.initializer}
        if all(info.name in given for info in model.graph.input):
            raise Malformed("the graph has no input, so no image can come in: it has none but initializers")
        for function in model.functions:
            _words([function.name, function.domain, *function.input, *function.output], "a function's name")
            count = _nodes(function.node, bounds, 1, count)
    except Malformed as error:
        raise InputError(f"{where}: {error}") from None


def _graph(graph: onnx.GraphProto, bounds: Bounds, depth: int, count: int, main: bool = False) -> int:
    """Checks a graph; gives how many nodes there are, `count` and those of this graph."""
    for tensor in graph.initializer:
        tensor_is_whole(tensor, "initializer", resolved=main)
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise Malformed(f"initializer {_shown(name)} is sparse, which is not supported: store it as a dense tensor")
    for info in (*graph.input, *graph.output, *graph.value_info):
        _words([info.name], "a tensor's name")
        _words((d.dim_param for d in info.type.tensor_type.shape.dim), f"a dimension of tensor {_shown(info.name)}")
        element = info.type.tensor_type.elem_type
        if element not in TensorProto.DataType.values():
            raise Malformed(f"tensor {_shown(info.name)} has the unknown type {element}")
    for info in graph.input:
        if main and not info.type.HasField("tensor_type"):
            raise Malformed(f"input {_shown(info.name)} is no tensor, which is not supported")
        if main and info.type.tensor_type.elem_type not in _WIDTHS:
            kind = type_name(info.type.tensor_type.elem_type)
            raise Malformed(f"input {_shown(info.name)} is of type {kind}, which is not supported")
    return _nodes(graph.node, bounds, depth, count)


def _nodes(nodes: Iterable[onnx.NodeProto], bounds: Bounds, depth: int, count: int) -> int:
    for node in nodes:
        count += 1
        bounds.refuse_nodes(count, depth)
        _words([node.name, node.op_type, node.domain, *node.input, *node.output], "a node's name, operator or tensor")
        for attribute in node.attribute:
            _words([attribute.name], f"an attribute's name of node {_shown(node.name)}")
            count = _attribute(attribute, node, bounds, depth, count)
    return count


def _attribute(attribute: AttributeProto, node: onnx.NodeProto, bounds: Bounds, depth: int, count: int) -> int:
    if attribute.type not in AttributeProto.AttributeType.values() or attribute.type == AttributeProto.UNDEFINED:
        raise Malformed(f"node {_shown(node.name)}: attribute {_shown(attribute.name)} has the unknown type {attribute.type}")
    if attribute.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
        raise Malformed(f"node {_shown(node.name)}: attribute {_shown(attribute.name)} is sparse, which is not supported")
    for text in (attribute.s, *attribute.strings):
        if not _is_text(text):
            raise Malformed(f"node {_shown(node.name)}: attribute {_shown(attribute.name)} is no UTF-8 text")
    for tensor in _tensors(attribute):
        tensor_is_whole(tensor, f"node {_shown(node.name)}: constant")
    for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        count = _graph(graph, bounds, depth + 1, count)
    return count


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors


def tensor_is_whole(tensor: TensorProto, what: str, resolved: bool = False) -> None:
    """Raises Malformed when a tensor's type is not supported, or its values are not as many as its shape says.

    Args:
        tensor: an initializer or an attribute.
        what: it is, for the message.
        resolved: external data has been looked at already; else it is refused.
    """
    _words([tensor.name], "an initializer's name")
    name = f"{what} {_shown(tensor.name)}"
    width = _WIDTHS.get(tensor.data_type)
    if width is None:
        raise Malformed(f"{name} is of type {type_name(tensor.data_type)}, which is not supported: store it in another type")
    if len(tensor.dims) > RANK:
        raise Malformed(f"{name} has {len(tensor.dims)} dimensions; at most {RANK} are supported")
    if any(side < 0 for side in tensor.dims):
        raise Malformed(f"{name} has a negative dimension in its shape {list(tensor.dims)}")
    if tensor.data_location == TensorProto.EXTERNAL:
        if not resolved:
            raise Malformed(f"{name} keeps its data in another file, which only initializers of the main graph may")
        return
    wanted = elements(tensor.dims)
    if tensor.HasField("raw_data"):
        found, wanted, unit = len(tensor.raw_data), wanted * width, "bytes"
    else:
        field, each = _FIELDS.get(tensor.data_type, ("int32_data", 1))
        found, wanted, unit = len(getattr(tensor, field)), wanted * each, "values"
    if found != wanted:
        raise Malformed(f"{name} has {found} {unit}, its shape {_dims(tensor)} needs {wanted}: truncated?")


def type_name(number: int) -> str:
    """BFLOAT16, or the number where ONNX knows none."""
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else str(number)


def _dims(tensor: TensorProto) -> str:
    shown = ",".join(map(str, tensor.dims))
    return f"[{shown[:60]}]"


def _words(texts: Iterable[str | bytes], what: str) -> None:
    """Protobuf hands on bytes, or stumbles, where a string is no UTF-8."""
    try:
        wrong = next((text for text in texts if not isinstance(text, str)), None)
    except UnicodeDecodeError as error:
        raise Malformed(f"{what} is no UTF-8 text ({error.reason}): not a sound ONNX file") from None
    if wrong is not None:
        raise Malformed(f"{what} is no UTF-8 text ({bytes(wrong)[:30]!r}): not a sound ONNX file")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _shown(name: str | bytes) -> str:
    return repr(name)[:80]


def expected_bytes(tensor: TensorProto) -> int | None:
    """Bytes that the raw data of a tensor must have, or None for types packed below one byte."""
    try:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError):
        return None
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.STRING):
        return None
    return elements(tensor.dims) * itemsize
