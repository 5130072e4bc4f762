"""Values of options: what an annotation allows, read from text or checked, in one place."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from onnxgraft.errors import InputError


class Size(NamedTuple):
    """A canvas in pixels, written HEIGHTxWIDTH."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class Between:
    """The values a number may have: from `low` (above it, when `above`) to `high`; no `high` is no limit."""

    low: float
    high: float = math.inf
    above: bool = False

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"{'above ' * self.above}{self.low:g} to {self.high:g}"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)


@dataclass(frozen=True)
class NameOf:
    """Text that names one of a kind of things, such as targets, which are known where they are looked up, not here."""

    kind: str


_HINTS: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()

Count = Annotated[int, Between(1)]
Share = Annotated[float, Between(0, 1)]


def hints_of(kind: type) -> dict[str, Any]:
    """The annotations of a class's fields, with what Annotated adds."""
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind, include_extras=True)
    return _HINTS[kind]


def optional(hint: Any) -> bool:
    """Whether None is one of the values that an annotation allows."""
    if get_origin(hint) is Annotated:
        return optional(get_args(hint)[0])
    return hint is NoneType or (get_origin(hint) in (Union, UnionType) and any(map(optional, get_args(hint))))


def coerce(value: Any, hint: Any, where: str) -> Any:
    """The value of an option as its annotation wants it: text is read, everything else is checked.

    Args:
        value: text, as on the command line and in pipelines, or a value of the right type.
        hint: bool, int, float, str, Path, Size, a Literal, tuple[X, ...], X | None, or one of them in Annotated with a
            Between. Values of other types are left as they are.
        where: the option as the user knows it, for the message.

    Raises:
        InputError: the value is none that the annotation allows; says which are.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = coerce(value, parts[0], where)
        for rule in parts[1:]:
            if isinstance(rule, Between) and value is not None and value not in rule:
                raise InputError(f"{where} is {value:g}: give {rule}")
        return value
    if origin in (Union, UnionType):
        if value is None and optional(hint):
            return None
        return coerce(value, next(part for part in parts if part is not NoneType), where)
    if origin is Literal:
        found = next((choice for choice in parts if str(value) == str(choice)), None)
        if found is None:
            raise InputError(f"{where}: {str(value)!r} is not one of {', '.join(map(str, parts))}")
        return found
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(coerce(one, parts[0], where) for one in value)
    read = _READERS.get(hint)
    if read is None:
        return value
    try:
        return read(value)
    except (KeyError, ValueError, TypeError, OverflowError):
        raise InputError(f"{where}: {str(value)!r} is not {_WANTED[hint]}") from None


def coerce_fields(held: Any, name: Callable[[str], str]) -> None:
    """Coerce every field of a frozen dataclass that is being made; `name` gives a field's name for messages."""
    hints = hints_of(type(held))
    for field in dataclasses.fields(held):
        value = coerce(getattr(held, field.name), hints[field.name], name(field.name))
        object.__setattr__(held, field.name, value)  # as a frozen dataclass's own __init__ does


def type_text(hint: Any) -> str:
    """An annotation as docs and --help write it: "float (0 to 1) | None", "auto | native | plugin"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        rules = [str(rule) for rule in parts[1:] if isinstance(rule, Between)]
        return " ".join([type_text(parts[0]), *(f"({rule})" for rule in rules)])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(type_text, parts))
    if hint is NoneType:
        return "None"
    if hint is Size:
        return "HEIGHTxWIDTH"
    return hint.__name__ if isinstance(hint, type) and origin is None else str(hint)


def _bool(value: Any) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[value.lower()]


def _int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return int(value) if isinstance(value, str) else operator.index(value)


def _float(value: Any) -> float:
    found = float(value)
    if isinstance(value, bool) or not math.isfinite(found):
        raise ValueError
    return found


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _size(value: Any) -> Size:
    height, width = value.lower().split("x") if isinstance(value, str) else value
    return Size(_int(height), _int(width))


_READERS: dict[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _str, Path: Path, Size: _size}
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path",
           Size: "HEIGHTxWIDTH, such as 1344x1344"}  # fmt: skip
