"""Writes whole files or none, reads JSON into dataclasses and writes them as JSON, and digests."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin, get_type_hints

from onnxgraft.atomic import open_beside, umask
from onnxgraft.errors import InputError, os_reason

_LARGEST = 1 << 1000  # a whole number that is no float any more is nobody's
STDOUT = Path("-")
CACHE = Path("build") / ".cache"  # unpacked golden graphs and calibrations that were measured


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write plain data, whole or not at all; numbers of NumPy become floats, and without `indent` no space is spent.

    Raises:
        InputError: as `write_atomically`.
    """
    separators = (",", ":") if indent is None else None
    write_atomically(path, (json.dumps(data, indent=indent, separators=separators, default=float) + "\n").encode())


def read_json(path: Path, wanted: str = "JSON", remedy: str = "") -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        wanted: what the file should be, for the error's line.
        remedy: what to do when it is something else, such as "build it again".

    Raises:
        InputError: it cannot be read, or is no JSON; one line that names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {os_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        hint = f"; {remedy}" if remedy else ""
        raise InputError(f"{path}: no {wanted}: not JSON, or truncated ({error}){hint}") from error


def plain(value: Any) -> Any:
    """A dataclass, or what holds some, as JSON has it: dictionaries and lists.

    A field's metadata may say "key", its key where that is no Python name, and "omit", to leave it out where it is None.
    A class with a method `to_json` gives its own form.
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        held = [(f, getattr(value, f.name)) for f in fields(value)]
        return {_key(f): plain(v) for f, v in held if not (v is None and f.metadata.get("omit"))}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def parsed(kind: Any, value: Any, where: str, key: str = "") -> Any:
    """What `plain` gave, as a dataclass (or another annotation of a field) again; unknown keys are left aside.

    Args:
        kind: the dataclass, or bool, int, float, str, None, Literal, tuple, dict, Any and unions of them.
        value: what JSON holds.
        where: the file, for the error's line.
        key: the place in it, for the error's line.

    Raises:
        InputError: a key is missing, or holds something else than its field's type; names the file and the key.

    A field's metadata may say "read": a function that makes the field's value of what JSON holds.
    """
    origin, inner = get_origin(kind), get_args(kind)
    wrong = InputError(f"{where}: {key or 'its content'} is {str(value)[:60]!r}, expected {_words(kind)}")
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        (first, *others) = [k for k in inner if k is not NoneType]
        for other in others:
            if _fits(other, value):
                return value
        return parsed(first, value, where, key)
    if origin is Literal:
        if value in inner:
            return value
        raise wrong
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) != len(value):
            raise wrong
        return tuple(parsed(k, v, where, f"{key}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): parsed(inner[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if hasattr(kind, "from_json"):
        return kind.from_json(value, where, key)
    if is_dataclass(kind) and isinstance(value, Mapping):
        return _record(kind, value, where, key)
    if _fits(kind, value):
        return float(value) if kind is float else value
    raise wrong


def _record(kind: Any, value: Mapping[str, Any], where: str, key: str) -> Any:
    types, held = get_type_hints(kind), {}
    for f in fields(kind):
        inside = f"{key}.{_key(f)}" if key else _key(f)
        if "read" in f.metadata and value.get(_key(f)) is not None:
            held[f.name] = _read(f.metadata["read"], value[_key(f)], where, inside)
        elif _key(f) in value:
            held[f.name] = parsed(types[f.name], value[_key(f)], where, inside)
        elif f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where}: {inside!r} is missing")
    return kind(**held)


def _read(read: Callable[[Any], Any], value: Any, where: str, key: str) -> Any:
    try:
        return read(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: {key} is damaged ({str(error)[:200]})") from error


def _key(f: Any) -> str:
    return str(f.metadata.get("key", f.name))


def _fits(kind: Any, value: Any) -> bool:
    if kind is Any:
        return True
    if kind in (int, float):
        number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        return number and (isinstance(value, float) or abs(value) < _LARGEST)
    return isinstance(kind, type) and isinstance(value, kind)


def _words(kind: Any) -> str:
    return "an object" if is_dataclass(kind) or get_origin(kind) is dict else str(getattr(kind, "__name__", kind))


def inside(folder: Path, name: str, told_by: str) -> Path:
    """The file `name` of a folder. Raises InputError when it lies, or leads by a link, elsewhere.

    Args:
        folder: where it must be.
        name: as a file says it; folders within are allowed.
        told_by: the file that says so, for the error's line.
    """
    try:
        place, home = (folder / name).resolve(), folder.resolve()
        place.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a zero byte
        raise InputError(f"{told_by}: {name[:100]!r} is no usable path: {str(error)[:100]}") from None
    if home not in place.parents:
        raise InputError(f"{told_by}: {name[:100]!r} lies outside {folder}: refused")
    return folder / name


def digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            state.update(chunk)
    return state.hexdigest()


def write_atomically(path: Path, content: bytes | memoryview | Callable[[BinaryIO], None]) -> None:
    """Write a whole file through a temporary one beside it; parents are made, the umask is honoured.

    Args:
        path: the file; an older one stays as it was until the new one is whole.
        content: its bytes (a buffer is not copied), or a function that writes them into the file it gets.

    Raises:
        InputError: the place cannot be written, in one line; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = open_beside(path)
        with os.fdopen(descriptor, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.chmod(temporary, 0o666 & ~umask())
            os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path} cannot be written: {os_reason(error)}") from error
        raise


def check_writable(path: Path) -> None:
    """Make the folder of `path` and see that a file can be made there, before time is spent; STDOUT can be.

    Raises InputError in one line when it cannot.
    """
    if path == STDOUT:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {os_reason(error)}") from error
