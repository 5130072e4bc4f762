"""Changes that make a sound file hostile; all of them follow from a random generator, so that a case can be repeated."""

from __future__ import annotations

import json
import random
from typing import Any

import onnx
from google.protobuf.message import DecodeError

BYTES = (b"\xff", b"\x00", b"\x7f", b"\x80", b"\xff" * 9 + b"\x01", b"\x00" * 8, b"\xff\xff\xff\xff", b"\x80\x80\x80\x80\x10")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 7, 2**31, 2**63, 10**400, -1e308, float("nan"), float("inf"), "", "abc", "../../etc/passwd", "\x00",
    "\ud800", "a" * 5000, [], {}, [None], [[[[[[1]]]]]], {"a": {"b": {}}}, ["x", 1], [1e400], "NaN", "onnxruntime", 1.5,
)  # fmt: skip
WORDS = ("", "x", "y", "w", "a" * 5000, "../x", "\u202e", "If", "Loop", "Resize", "Shape", "Constant")
WHOLE = (0, 1, -1, 2, 3, 7, 64, 4096, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))


def bytes_of(chance: random.Random, data: bytes) -> bytes:
    """One to four changes of bytes: flipped, set, inserted, removed, repeated, moved or cut off."""
    for _ in range(chance.randint(1, 4)):
        size = len(data)
        at, length = chance.randrange(size + 1), chance.choice((1, 1, 2, 4, 8, 64))
        kind = chance.randrange(7)
        if kind == 0 and at < size:
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            put = chance.choice(BYTES)
            data = data[:at] + put + data[at + len(put) :]
        elif kind == 2:
            data = data[:at] + chance.choice((*BYTES, chance.randbytes(length))) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + length :]
        elif kind == 4:
            data = data[:at] + data[at : at + length] * chance.choice((2, 3, 50)) + data[at + length :]
        elif kind == 5:
            there = chance.randrange(size + 1)
            data = data[:at] + data[there : there + length] + data[at:]
        elif chance.random() < 0.3:
            data = data[:at]
    return data


def json_of(chance: random.Random, data: bytes) -> bytes:
    """Other values, keys that are gone or new, or deep nesting, at one to three places; else other bytes."""
    if chance.random() < 0.3:
        return bytes_of(chance, data)
    content = json.loads(data)
    for _ in range(chance.randint(1, 3)):
        content = _changed(chance, content)
    text = json.dumps(content)
    if chance.random() < 0.03:
        deep = chance.choice((200, 900, 5000, 100_000))
        text = text.replace(":", ":" + "[" * deep + "]" * deep + ',"x":', 1)
    return text.encode(errors="surrogatepass")


def _changed(chance: random.Random, content: Any) -> Any:
    if not isinstance(content, (dict, list)) or not content or chance.random() < 0.08:
        return chance.choice(VALUES)
    if isinstance(content, dict):
        key = chance.choice(list(content))
        if chance.random() < 0.1:
            return {k: v for k, v in content.items() if k != key}
        return {**content, key: _changed(chance, content[key])}
    at = chance.randrange(len(content))
    if chance.random() < 0.1:
        return content[:at] + content[at:] * chance.choice((0, 2, 20))
    return [*content[:at], _changed(chance, content[at]), *content[at + 1 :]]


def model_of(chance: random.Random, data: bytes) -> bytes:
    """One to three messages of a model get a hostile field: dimensions, types, names, edges, attributes, whole nodes."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        for _ in range(chance.randint(1, 3)):
            _change_message(chance, model)
        return model.SerializeToString()
    except (DecodeError, ValueError, TypeError, UnicodeError):  # what the change made cannot be written
        return bytes_of(chance, data)


def _change_message(chance: random.Random, message: Any) -> None:
    """Walk down at random and change what is there."""
    held = message.ListFields()
    if not held:
        return
    field, value = chance.choice(held)
    if field.type != field.TYPE_MESSAGE:
        _change_numbers(chance, message, field, value)
    elif not hasattr(value, "__len__"):
        _change_message(chance, value)
    elif chance.random() < 0.12:
        _change_list(chance, value)
    else:
        _change_message(chance, chance.choice(list(value)))


def _change_list(chance: random.Random, items: Any) -> None:
    at = chance.randrange(len(items))
    kind = chance.randrange(3)
    if kind == 0:
        del items[at]
    elif kind == 1:
        items.add().CopyFrom(items[at])
    else:
        items.add().CopyFrom(items[at])
        del items[at]


def _change_numbers(chance: random.Random, message: Any, field: Any, value: Any) -> None:
    repeated = hasattr(value, "append")
    old = chance.choice(list(value)) if repeated and len(value) else value
    new: Any
    if isinstance(old, str):
        new = chance.choice((*WORDS, old * 2))
    elif isinstance(old, bytes):
        new = bytes_of(chance, old)
    elif isinstance(old, float):
        new = chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-38))
    else:
        new = chance.choice(WHOLE) if field.type in (field.TYPE_INT64, field.TYPE_UINT64) else chance.choice((0, 1, 7, 16, 999))
    if not repeated:
        setattr(message, field.name, new)
    elif len(value) and chance.random() < 0.7:
        value[chance.randrange(len(value))] = new
    else:
        value.append(new)
