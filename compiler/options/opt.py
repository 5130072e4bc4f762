"""How an option is declared, and what follows from the declarations."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from onnxgraft.options.values import Size, coerce_fields, hints_of


@dataclass(frozen=True)
class Opt:
    """What an option says of itself.

    Attributes:
        help: one sentence.
        to: the passes that take it, "pass" where the pass's field has the option's name, else "pass.field".
        serves: passes without which it has no effect, though it is no field of theirs.
        when: what to give so that it has an effect; told to a user who gave it where it has none.
        flag: on the command line; the name with dashes when empty.
        on: the commands that offer it.
        group: its heading in --help.
    """

    help: str
    to: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    when: str = ""
    flag: str = ""
    on: str = "build bisect"
    group: str = "Options"

    @property
    def passes(self) -> list[str]:
        """The passes that it goes to or serves."""
        return [place.partition(".")[0] for place in (*self.to, *self.serves)]


@dataclass(frozen=True)
class Declared:
    """One option of a class of options."""

    name: str
    hint: Any
    default: Any
    opt: Opt

    @property
    def flag(self) -> str:
        return self.opt.flag or f"--{self.name.replace('_', '-')}"

    @property
    def off(self) -> str:
        """The flag that sets a switch to false."""
        return f"--no-{self.flag.removeprefix('--')}"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Options whose values are checked against their declarations when they are made. Raises InputError."""

    def __post_init__(self) -> None:
        flags = {option.name: option.flag for option in declared(type(self))}
        coerce_fields(self, flags.__getitem__)


_DECLARED: dict[type, tuple[Declared, ...]] = {}


def declared(kind: type[Checked]) -> tuple[Declared, ...]:
    """The options of a class, in the order in which they are written."""
    if kind in _DECLARED:
        return _DECLARED[kind]
    hints = hints_of(kind)
    found = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        assert get_origin(hint) is Annotated, f"{field.name} says nothing of itself"
        opt = next(part for part in get_args(hint) if isinstance(part, Opt))
        found.append(Declared(field.name, hint, field.default, opt))
    _DECLARED[kind] = tuple(found)
    return _DECLARED[kind]


def given(options: Checked) -> Iterator[tuple[Declared, Any]]:
    """The options that differ from their defaults, with their values."""
    for option in declared(type(options)):
        value = getattr(options, option.name)
        if value != option.default:
            yield option, value


def settings(options: Checked, name: str) -> dict[str, Any]:
    """The fields of the pass `name` that options set. None leaves a pass its own default."""
    found: dict[str, Any] = {}
    for option in declared(type(options)):
        value = getattr(options, option.name)
        for place in option.opt.to:
            step, _, field = place.partition(".")
            if step == name and value is not None:
                found |= value._asdict() if isinstance(value, Size) else {field or option.name: value}
    return found


def without_effect(options: Checked, names: Collection[str]) -> list[Declared]:
    """The given options that no pass of a pipeline (the names of its passes) takes."""
    return [option for option, _ in given(options) if option.opt.passes and not set(option.opt.passes) & set(names)]


def as_flags(options: Checked, leave: Collection[str] = ()) -> list[str]:
    """The command line that gives these options, but for those named in `leave`; paths are absolute."""
    words: list[str] = []
    for option, value in given(options):
        if option.name in leave:
            continue
        if isinstance(value, bool):
            words.append(option.flag if value else option.off)
            continue
        for one in value if type(value) is tuple else [value]:
            words += [option.flag, str(one.absolute() if isinstance(one, Path) else one)]
    return words


def as_dict(options: Checked) -> dict[str, Any]:
    """The options as JSON has them."""
    plain: dict[str, Any] = {}
    for option in declared(type(options)):
        value = getattr(options, option.name)
        if isinstance(value, (Path, Size)):
            value = str(value)
        plain[option.name] = list(map(str, value)) if isinstance(value, tuple) else value
    return plain
