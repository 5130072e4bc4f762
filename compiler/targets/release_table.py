"""What releases of TensorRT differ in, as a table: for a terminal and for docs/tensorrt-versions.md."""

from __future__ import annotations

from onnxgraft.plugins import REGISTRY
from onnxgraft.targets.releases import JETPACKS, NAMES, ONLY_STRONG, Release

BEGIN, END = "<!-- what `onnxgraft releases --markdown` prints -->\n", "<!-- end -->\n"
"""Marks around the table in the page."""
_HEADS = ("TensorRT", "JetPack", "opset up to", "precision", "bf16", "INT64", "plugins", "trtexec lacks")
_FLAGS = ("--skipInference", "--builderOptimizationLevel", "--versionCompatible", "--stronglyTyped", "--stripWeights")


def table() -> list[tuple[str, ...]]:
    """A row for each run of releases that are alike, under a heading."""
    rows: list[tuple[list[str], tuple[str, ...]]] = []
    for name in NAMES:
        facts = _facts(Release(name))
        if rows and rows[-1][1] == facts:
            rows[-1][0].append(name)
        else:
            rows.append(([name], facts))
    shown: list[tuple[str, ...]] = [_HEADS]
    for names, facts in rows:
        jetpacks = ", ".join(jetpack for jetpack, release in JETPACKS.items() if release in names)
        shown.append((names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}", jetpacks, *facts))
    return shown


def _facts(release: Release) -> tuple[str, ...]:
    if release.weakly_typed:
        precision = "its builder's choice: --fp16, --int8, --layerPrecisions"
    else:
        precision = "the graph's" if release.since(ONLY_STRONG) else "the graph's, with --stronglyTyped"
    integers = "yes" if "INT64" in release.types_of("Add") else "cast to INT32"
    lacks = ", ".join(flag for flag in _FLAGS if not release.has_flag(flag))
    return str(release.opset), precision, "yes" if release.has_bf16 else "no", integers, _plugins(release), lacks


def _plugins(release: Release) -> str:
    words = []
    for op, plugin in REGISTRY.items():
        held = [version for since, version in plugin.releases if release.since(since)]
        if plugin.releases:
            deprecated = bool(plugin.deprecated) and release.since(plugin.deprecated)
            words.append(f"{op} {held[-1] if held else 'absent'}{' (deprecated)' * deprecated}")
    return ", ".join(words)


def markdown() -> str:
    """The table with its marks, as the page has it."""
    heads, *rows = table()
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return BEGIN + "\n" + "\n".join(lines) + "\n\n" + END
