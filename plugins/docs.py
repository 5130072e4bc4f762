"""What plugin ops say about themselves: the table of docs/plugins.md."""

from __future__ import annotations

from onnxgraft.plugins import REGISTRY
from onnxgraft.plugins.op import PluginOp

BEGIN, END = "<!-- what `onnxgraft plugins --markdown` prints -->\n", "<!-- end -->\n"
"""Marks around the table in the page."""


def table() -> list[tuple[str, ...]]:
    """All plugin ops, a row each, under a heading."""
    rows: list[tuple[str, ...]] = [("operator", "version", "plugin of", "in TensorRT", "native form anywhere", "inputs")]
    for plugin in REGISTRY.values():
        targets = ", ".join(sorted(plugin.targets)) or "nobody"
        flag = f"--{plugin.group} native" if plugin.targets and plugin.group else ""
        rows.append((plugin.op_type, plugin.version, targets, _releases(plugin), flag, ", ".join(plugin.inputs)))
    return rows


def _releases(plugin: PluginOp) -> str:
    """Since which release of TensorRT it is there, in which version, and from which on it is deprecated."""
    steps = [f"{version} since {release}" for release, version in plugin.releases]
    return ", ".join(steps) + (f"; deprecated since {plugin.deprecated}" if plugin.deprecated else "")


def markdown() -> str:
    """The table with its marks, as the page has it. Each operator links to its section."""
    heads, *rows = table()
    lines = [f"| {' | '.join(heads)} |", "|---" * 6 + "|"]
    for op, version, targets, releases, flag, inputs in rows:
        shown = ", ".join(f"`{name}`" for name in inputs.split(", "))
        native = f"`{flag}`" if flag else ""
        lines.append(f"| [{op}](#{op.lower()}) | {version} | {targets} | {releases} | {native} | {shown} |")
    return BEGIN + "\n" + "\n".join(lines) + "\n\n" + END
