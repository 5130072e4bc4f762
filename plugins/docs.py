"""What plugin ops say about themselves: the table of docs/plugins.md."""

from __future__ import annotations

from onnxgraft.plugins import REGISTRY

BEGIN, END = "<!-- what `onnxgraft plugins --markdown` prints -->\n", "<!-- end -->\n"
"""Marks around the table in the page."""


def table() -> list[tuple[str, ...]]:
    """All plugin ops, a row each, under a heading."""
    rows: list[tuple[str, ...]] = [("operator", "version", "plugin of", "native form anywhere", "inputs")]
    for plugin in REGISTRY.values():
        targets = ", ".join(sorted(plugin.targets)) or "nobody"
        flag = f"--{plugin.group} native" if plugin.targets and plugin.group else ""
        rows.append((plugin.op_type, plugin.version, targets, flag, ", ".join(plugin.inputs)))
    return rows


def markdown() -> str:
    """The table with its marks, as the page has it. Each operator links to its section."""
    heads, *rows = table()
    lines = [f"| {' | '.join(heads)} |", "|---" * 5 + "|"]
    for op, version, targets, flag, inputs in rows:
        shown = ", ".join(f"`{name}`" for name in inputs.split(", "))
        lines.append(f"| [{op}](#{op.lower()}) | {version} | {targets} | {f'`{flag}`' if flag else ''} | {shown} |")
    return BEGIN + "\n" + "\n".join(lines) + "\n\n" + END
