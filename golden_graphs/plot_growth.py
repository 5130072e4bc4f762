"""Draws what `golden_graphs.measure_growth` measured: the picture of docs/speed.md. Needs matplotlib.

    python -m golden_graphs.plot_growth RESULTS SVG
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from golden_graphs.measure_growth import UNITS, WORK, by_axis


def plot(held: dict[str, Any], path: Path) -> None:
    """Seconds against what grows, a panel for each axis, both logarithmic, with a line that is linear."""
    pyplot.rcParams.update({"svg.hashsalt": "growth", "svg.fonttype": "none"})  # the same bytes again, and text as text
    axes = by_axis(held)
    figure, panels = pyplot.subplots(2, len(axes), figsize=(3.2 * len(axes), 6), squeeze=False)
    for column, (axis, rows) in enumerate(axes.items()):
        for row, (what, label) in enumerate((("seconds", "seconds of the processor"), ("mib", "MiB at most"))):
            panel, values = panels[row][column], list(rows)
            for number, kind in enumerate(WORK):
                known = [(v, held[kind][what]) for v, held in rows.items() if kind in held]
                if known:
                    panel.plot(*zip(*known, strict=True), "o-", label=kind, color=f"C{number}", markersize=3)
            start = min(held[kind][what] for held in rows.values() for kind in held)
            panel.plot(values, [start * v / values[0] for v in values], "--", color="0.7", label="linear")
            panel.set(xscale="log", yscale="log", xlabel=UNITS[axis], ylabel="" if column else label, title="" if row else axis)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(WORK) + 1, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
