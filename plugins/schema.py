"""Attributes of plugin ops: types, defaults, what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxgraft.errors import PluginError

RESERVED = ("plugin_version", "plugin_namespace")
"""Attributes that TensorRT's importer reads itself, of any plugin."""


@dataclass(frozen=True)
class Attribute:
    """One attribute of a plugin op, or one option of its lowering.

    `kind` is "int", "float", "ints" or "string". Without `required`, `default` stands in when
    it is absent. `allowed` is the set of legal values in words, tested by `check`.
    """

    name: str
    kind: str
    doc: str
    default: Any = None
    required: bool = False
    allowed: str = ""
    check: Callable[[Any], bool] | None = None

    def accept(self, value: Any, where: str) -> Any:
        """The value in its Python type. Raises PluginError when type or range do not fit."""
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        fits = {
            "int": _is_int(value),
            "float": isinstance(value, float) or _is_int(value),
            "ints": isinstance(value, (list, tuple)) and all(_is_int(v) for v in value),
            "string": isinstance(value, str),
        }[self.kind]
        if not fits:
            raise PluginError(f"{where}: {self.name}={value!r} must be of type {self.kind}")
        if self.kind == "ints":
            value = [int(v) for v in value]
        elif self.kind in ("int", "float"):
            value = {"int": int, "float": float}[self.kind](value)
        if self.check is not None and not self.check(value):
            raise PluginError(f"{where}: {self.name}={value!r} must be {self.allowed}")
        return value


def flag(name: str, default: int, doc: str, *, required: bool = False) -> Attribute:
    """An int attribute that is 0 or 1."""
    return Attribute(name, "int", doc, default, required, "0 or 1", lambda v: v in (0, 1))


def choice(name: str, default: str, choices: Sequence[str], doc: str) -> Attribute:
    """A string option out of a few."""
    words = " or ".join(choices)
    return Attribute(name, "string", doc, default, False, words, choices.__contains__)


def complete_attributes(
    schema: Sequence[Attribute], given: Mapping[str, Any], where: str, reserved: Sequence[str] = ()
) -> dict[str, Any]:
    """What was given in its Python types, with defaults for the rest.

    Raises:
        PluginError: begins with `where`; a name is unknown (and not `reserved`), a value does not fit, one is missing.
    """
    known = {attribute.name for attribute in schema}
    for name in given:
        if name not in known and name not in reserved:
            raise PluginError(f"{where}: unknown {name!r}, knows {', '.join(sorted(known))}")
    complete: dict[str, Any] = {}
    for attribute in schema:
        if attribute.name in given:
            complete[attribute.name] = attribute.accept(given[attribute.name], where)
        elif attribute.required:
            raise PluginError(f"{where}: {attribute.name} is missing and has no default")
        else:
            complete[attribute.name] = attribute.default
    return complete


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
