"""Passes and diffs for a terminal: coloured there, plain text in a pipe."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from onnxgraft.ir.textdiff import count_lines, operators
from onnxgraft.pipeline.docs import PassDoc, facts_of
from onnxgraft.pipeline.record import Check
from onnxgraft.report.reader import PassRow, Run

_STYLES = (("+++", "bold"), ("---", "bold"), ("@@", "cyan"), ("+", "green"), ("-", "red"))
_MOST_OPS = 4


def pass_table(run: Run) -> RenderableType:
    """All passes: number, name, changed or skipped, nodes, operators gained and lost or why skipped, seconds, numeric check."""
    whole = [Column(head, no_wrap=True) for head in ("", "pass", "", "nodes")]
    table = Table(*whole, "operators", Column("seconds", no_wrap=True), box=None, pad_edge=False)
    checked = any(row.check for row in run.passes)
    if checked:
        table.add_column("numeric check")
    for row in run.passes:
        nodes = f"{row.nodes_before} > {row.nodes_after}" if row.nodes_before != row.nodes_after else str(row.nodes_after)
        table.add_row(
            str(row.index), Text(row.name, "bold" if row.changed else "dim"), what(row),
            nodes, row.skipped or ops_text(row.ops()), "" if row.seconds is None else f"{row.seconds:.2f}",
            *([check_text(row.check)] if checked else []),
        )  # fmt: skip
    if run.failure is None:
        return table
    return Group(table, Text(f"failed in {run.failure.pass_name}: {run.failure.error}", "red"))


def what(row: PassRow) -> str:
    """What a pass did, in a word; empty when it ran and changed nothing."""
    return "changed" if row.changed else "skipped" if row.skipped is not None else ""


def ops_text(ops: Counter[str], most: int | None = _MOST_OPS) -> str:
    """Operators gained and lost, the largest changes first: "+3 Gemm, -12 Cast"."""
    ranked = sorted(ops.items(), key=lambda item: (-abs(item[1]), item[0]))
    shown = [f"{n:+d} {op}" for op, n in ranked[:most]]
    more = len(ranked) - len(shown)
    return ", ".join(shown) + (f", {more} more" if more else "")


def check_text(check: Check | None) -> str:
    """One line on a numeric check; empty when none was made."""
    return "" if check is None else str(check)


def coloured(diff: str) -> Text:
    """A unified diff with its lines coloured."""
    text = Text()
    for line in diff.splitlines(keepends=True):
        text.append(line, next((style for mark, style in _STYLES if line.startswith(mark)), ""))
    return text


def stat_line(what: str, diff: str) -> str:
    added, removed = count_lines(diff)
    return f"{what}: {added} lines added, {removed} removed" if diff else f"{what}: no change"


def stat_table(run: Run) -> RenderableType:
    """Lines added and removed by each pass that changed something."""
    table = Table("", "pass", "added", "removed", box=None, pad_edge=False)
    for row in run.passes:
        if row.changed:
            added, removed = row.stat()
            table.add_row(str(row.index), row.name, f"+{added}", f"-{removed}")
    return table


def ops_table(before: str, after: str) -> RenderableType:
    """Operators of two graph texts that differ in number."""
    old, new = operators(before), operators(after)
    table = Table("operator", "before", "after", "", box=None, pad_edge=False)
    for op in sorted(old.keys() | new.keys(), key=lambda op: (-abs(new[op] - old[op]), op)):
        if old[op] != new[op]:
            table.add_row(op, str(old[op]), str(new[op]), f"{new[op] - old[op]:+d}")
    return table


def pass_doc(doc: PassDoc) -> RenderableType:
    """The documentation of one pass."""
    text = Text.assemble((doc.name, "bold"), f"  {doc.summary}\n")
    for line in doc.text.splitlines():
        text.append(f"    {line}\n")
    for option in doc.options:
        text.append(f"    {option.name}", "cyan")
        text.append(f": {option.type} = {option.default}\n")
    for label, words in facts_of(doc):
        if words:
            text.append(f"    {label} {', '.join(words)}\n", "dim")
    text.append(f"    example: {doc.example}\n")
    return text


def summary_line(row: PassRow) -> str:
    facts = [f"{row.nodes_before} > {row.nodes_after} nodes", ops_text(row.ops(), None)]
    facts += [f"{kind} {count}" for kind, count in row.statistics.items()]
    if row.skipped is not None:
        facts.append(f"skipped: {row.skipped}")
    return f"{row.index} {row.spec}: " + "; ".join(filter(None, [*facts, check_text(row.check)]))
