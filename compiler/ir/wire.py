"""The wire format of protobuf, as far as ONNX files need it (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

# Numbers of the length-delimited fields on the way to a weight's bytes (onnx.proto).
MODEL_GRAPH, GRAPH_INITIALIZER, TENSOR_RAW_DATA = 7, 5, 9
_LENGTH_DELIMITED = 2


def read_varint(buffer: mmap | bytes, position: int) -> tuple[int, int]:
    """The number at `position` and the position behind it.

    Raises:
        IndexError: the buffer ends within it. ValueError: it is longer than 64 bits.
    """
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 64 bits")


def varint(value: int) -> bytes:
    """A number of at least 0, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(buffer: mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start of the whole field, start of its value, end) for each field of the message in [start, end).

    Raises:
        ValueError, IndexError: it is no message, or a field reaches past `end`.
    """
    position = start
    while position < end:
        field_start = position
        key, position = read_varint(buffer, position)
        wire = key & 7
        if wire == 0:
            value_start = position
            _, position = read_varint(buffer, position)
        elif wire == _LENGTH_DELIMITED:
            length, value_start = read_varint(buffer, position)
            position = value_start + length
        elif wire in (1, 5):
            value_start = position
            position += 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if position > end:
            raise ValueError("truncated")
        yield key >> 3, field_start, value_start, position


def opening(field: int, length: int) -> bytes:
    """What stands before the `length` bytes of a length-delimited field: its key and its length."""
    return varint(field << 3 | _LENGTH_DELIMITED) + varint(length)


def size(field: int, length: int) -> int:
    """Bytes of a whole length-delimited field whose value has `length` bytes."""
    return len(opening(field, length)) + length
