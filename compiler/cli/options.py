"""From declared options to the parameters of a command: what is offered, how it is read, how --help shows it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from onnxgraft import targets
from onnxgraft.options import Checked, CompileOptions, Declared, NameOf, Options, coerce, declared, type_text

_METAVARS = {"bool": "", "int": "N", "float": "X", "str": "TEXT", "Path": "PATH"}
_NAMES = {"target": targets.names()}
_LOUD = (
    ("quiet", ("-q", "--quiet"), "Say nothing but errors and what goes to stdout by --json -."),
    ("verbose", ("-v", "--verbose"), "Say each step, with its time."),
)


class Command(TyperCommand):
    """A command whose --help has its options in groups, and examples behind them."""

    examples: tuple[str, ...] = ()

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                group = getattr(parameter, "rich_help_panel", None) or "Options"
                title = "Arguments" if parameter.param_type_name == "argument" else group
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Program(TyperGroup):
    """The program, whose --help gives each command's summary whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, " ".join((command.help or "").partition("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def add(
    app: typer.Typer, run: Callable[..., None], name: str = "", examples: tuple[str, ...] = (), works: bool = False,
    **defaults: Any,
) -> None:  # fmt: skip
    """Add a command to the program.

    Args:
        run: its function. A parameter of type Options becomes every option that is declared for this command; any other
            is Annotated with typer's Argument or Option. Values are read by `onnxgraft.options.coerce`.
        name: of the command; the function's when empty.
        examples: command lines for --help.
        works: it takes a while, and has -q and -v.
        defaults: of declared options, where the command has another than `build`.
    """
    name = name or run.__name__
    hints = get_type_hints(run, include_extras=True)
    parameters: list[inspect.Parameter] = []
    readers: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for parameter in inspect.signature(run).parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and issubclass(hint, Checked):
            offered = [option for option in declared(hint) if name in option.opt.on.split()]
            parameters += [_declared_parameter(option, defaults.get(option.name, option.default)) for option in offered]
            readers[parameter.name] = partial(_options, hint, defaults, [option.name for option in offered])
        else:
            parameters.append(_own_parameter(parameter, hint))
            readers[parameter.name] = partial(_value, parameter, hint)

    if works:
        parameters += [_keyword(flag, Annotated[bool, typer.Option(*names, help=text)], False) for flag, names, text in _LOUD]

    def call(**words: Any) -> None:
        if works and (words["quiet"] or words["verbose"]):
            importlib.import_module("onnxgraft.cli.console").set_level(-1 if words["quiet"] else 1)
        run(**{name: read(words) for name, read in readers.items()})

    call.__name__, call.__doc__, call.__annotations__ = run.__name__, run.__doc__, {}
    call.__signature__ = inspect.Signature(sorted(parameters, key=_required_first))  # type: ignore[attr-defined]
    kind = type(f"{name.capitalize()}Command", (Command,), {"examples": examples})
    app.command(name, cls=kind)(call)


def _required_first(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty


def _options(kind: type[Checked], defaults: dict[str, Any], names: list[str], words: dict[str, Any]) -> Checked:
    given = {name: words[name] for name in names if words[name] not in (None, [], ())}
    if "variants" in names:
        given |= _several(given)
    return kind(**defaults | given)


def _several(given: dict[str, Any]) -> dict[str, Any]:
    """`--size A,B --batch N,M` as the first of each, and every other pair as a variant."""
    sizes, batches = (str(given.get(name, "")).split(",") for name in ("size", "batch"))
    pairs = [f"{size or CompileOptions.size}:{batch or 1}" for size in sizes for batch in batches][1:]
    first = {name: held[0] for name, held in (("size", sizes), ("batch", batches)) if len(held) > 1}
    return first | ({"variants": [*pairs, *given.get("variants", [])]} if pairs else {})


def _value(parameter: inspect.Parameter, hint: Any, words: dict[str, Any]) -> Any:
    word = words[parameter.name]
    if word is None or word == parameter.default:
        return word
    info = _typer_info(hint)
    flags = [text for text in (*_names(info), f"--{parameter.name.replace('_', '-')}") if text.startswith("--")]
    return coerce(word, hint, flags[0])


def _declared_parameter(option: Declared, default: Any) -> inspect.Parameter:
    """A parameter of a declared option: text, or a switch; None is what was not given."""
    switch = isinstance(option.default, bool)
    flags = f"{option.flag}/{option.off}" if default is True else option.flag
    kind: Any = bool if switch else (list[str] if _repeatable(option.hint) else str) | None
    shown = "" if default is None or default == () or isinstance(default, bool) else f" [{default}]"
    info = typer.Option(flags, help=option.opt.help + shown, metavar=metavar(option.hint) or None, show_default=False,
                        rich_help_panel=option.opt.group)  # fmt: skip
    return _keyword(option.name, Annotated[kind, info], default if switch else None)


def _own_parameter(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    """A parameter of the command itself: numbers and choices are read as text, so that errors are ours."""
    info, plain = _typer_info(hint), type_text(_plain(hint)).removesuffix(" | None")
    if plain in ("bool", "str", "Path") or get_origin(_plain(hint)) is list or "list[" in plain or "tuple[" in plain:
        return _keyword(parameter.name, Annotated[_plain(hint), info], parameter.default)
    info = copy(info)
    info.metavar = info.metavar or metavar(hint)
    default, info.show_default = parameter.default, False
    if default is not inspect.Parameter.empty and default is not None and info.help:
        info.help += f" [{default}]"
    unset = default if default is inspect.Parameter.empty else None if default is None else str(default)
    return _keyword(parameter.name, Annotated[str if unset is not None else str | None, info], unset)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _typer_info(hint: Any) -> Any:
    return next(part for part in get_args(hint) if hasattr(part, "param_decls"))


def _names(info: Any) -> tuple[str, ...]:
    return tuple(word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str))


def _plain(hint: Any) -> Any:
    return _plain(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _repeatable(hint: Any) -> bool:
    return get_origin(_plain(hint)) is tuple


def _one(hint: Any) -> Any:
    """The annotation of one of the values of a repeatable option."""
    return get_args(_plain(hint))[0] if _repeatable(hint) else hint


def metavar(hint: Any) -> str:
    """What --help writes for a value: N, X, PATH, TEXT, a|b."""
    plain = _plain(hint)
    choices = [part for part in (plain, *get_args(plain)) if get_origin(part) is Literal]
    if choices or _named(hint):
        return "|".join(_named(hint) or map(str, get_args(choices[0])))
    word = type_text(_plain(_one(hint))).partition(" ")[0]
    return _METAVARS.get(word, word)


def _named(hint: Any) -> tuple[str, ...]:
    """The names that an annotation with NameOf allows, else none."""
    rules = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((_NAMES[rule.kind] for rule in rules if isinstance(rule, NameOf)), ())


def table() -> list[tuple[str, ...]]:
    """All declared options, a row each, under a heading."""
    rows: list[tuple[str, ...]] = [("option", "values", "default", "passes", "also in")]
    for option in declared(Options):
        passes = ", ".join(dict.fromkeys(option.opt.passes))
        rows.append((option.flag, _values(option), _default(option), passes, _others(option)))
    return rows


def markdown() -> str:
    """The page of all declared options."""
    parts = [
        "# Options\n\nEvery option of `onnxgraft build`, and the other commands that offer it. They are the fields of "
        "`onnxgraft.Options`.\nThis page is what `onnxgraft options --markdown` prints.\n"
    ]
    groups: dict[str, list[str]] = {}
    for option in declared(Options):
        passes = ", ".join(f"[{step}](passes.md#{step})" for step in dict.fromkeys(option.opt.passes))
        default = f"`{_default(option)}`" if _default(option) else ""
        row = f"| `{option.flag}` | {option.opt.help} | {_values(option)} | {default} | {passes} | {_others(option)} |"
        groups.setdefault(option.opt.group, []).append(row)
    for title, rows in groups.items():
        head = ["| option | what it does | values | default | passes | also in |", "|---|---|---|---|---|---|"]
        parts.append("\n".join([f"## {title}\n", *head, *rows]) + "\n")
    return "\n".join(parts)


def _values(option: Declared) -> str:
    words = {"bool": "switch", "str": "text", "int": "whole number", "float": "number", "Path": "path"}
    parts = _named(option.hint) or type_text(_one(option.hint)).split(" | ")
    return ", ".join(" ".join(words.get(w, w) for w in part.split(" ")) for part in parts if part != "None")


def _default(option: Declared) -> str:
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return "" if option.default in (None, ()) else str(option.default)


def _others(option: Declared) -> str:
    return ", ".join(name for name in option.opt.on.split() if name != "build")
