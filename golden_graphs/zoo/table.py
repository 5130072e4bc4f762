"""docs/zoo.md out of what the sweep measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """# Every model of detectron2's zoo

The {count} configs under detectron2's `configs/`, without `Base`, torchvision, mmdet and `quick_schedules` files, and
without `new_baselines`, which are [beyond the zoo](#beyond-the-zoo). Made by

    make zoo SIZE={size}        # python -m golden_graphs.zoo.sweep --size {size}; resumable; needs torch and detectron2

with seeded weights at real widths, on pictures of {size}. The share is fidelity's strict match: PyTorch's detections
found again with the same class, IoU > 0.99 and |score difference| < 1e-3, and as many in all (slivers thinner than 0.1
pixels: corners within 0.001 pixels instead of the IoU); heatmaps and semantic logits must agree within 0.01. *plugin* is
the portable form with TensorRT's plugins as ONNX functions, *native* the exact form without any plugin, both run by ONNX
Runtime in fp32; *script* is detectron2's own tracing at opset 11, in plugin form (of a Panoptic FPN it has the instances
alone; the Detectron1 comparisons are compiled with `--pooler-type ROIAlign`, which opset 11 cannot say). Engines are
TensorRT for RTX's, built without a GPU. Surgery is the time from the exported file to the plugin graph, on the machine of
the run, beside other work. `-` was not run; `=` marks a config whose model is another row's, run there.

{counts}

| config | exported | detections | plugin | native | script | RTX fp32 | fp16 | int8 | surgery s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

BEYOND = """
## Beyond the zoo

What else people build: detectron2's `new_baselines` (SyncBN, a box head of four convolutions, an RPN of two), the
transformers of its projects ViTDet and MViTv2, PointRend, other poolers and heads. Of the sweep's {known} rows
these {count} were run (`=` counted):

    make zoo SIZE={size} ARGS='--beyond DETECTRON2'     # DETECTRON2 is its source tree; the projects need timm too

under the same conditions. ViTDet, Swin and MViT are traced at {size}, which they hold for; their position tables have random
values. *Batch 4* is four different pictures in one batch, in plugin form, each against PyTorch.

| model | exported | detections | plugin | native | batch 4 | RTX fp32 | fp16 | int8 | surgery s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

UNDECIDED = """
## Pictures passed over, since rounding decides there

PyTorch in float64 does not find what it finds in float32: two boxes of nearly the same score suppress one another either way.
The next seed's picture was taken.

"""


def write(names: Sequence[str], results: Path, table: Path) -> None:
    """Write the table of `names` from the JSON files in `results`."""
    rows = [_read(results, name) for name in names]
    sizes = sorted({"x".join(map(str, row["size"])) for row in rows if "size" in row})
    head = HEAD.format(count=len(names), size=sizes[0] if len(sizes) == 1 else ", ".join(sizes), counts=_counts(rows))
    own = [row for row in rows if "same_as" not in row]
    notes = [f"- `{row['config']}`: {text}" for row in own for text in _troubles(row)]
    text = head + "\n".join(map(line, rows)) + "\n"
    if notes:
        text += "\n## What is not 1.00, and why\n\n" + "\n".join(notes) + "\n"
    passed_over = [f"- `{row['config']}`: {text}" for row in own for text in row.get("undecided", ())]
    if passed_over:
        text += UNDECIDED + "\n".join(passed_over) + "\n"
    refused = [f"- `{row['config']}`: {row['script']['why'].partition('. ')[0]}" for row in own
               if "why" in row.get("script", {})]  # fmt: skip
    if refused:
        text += "\n## What detectron2's script does not export, on a machine without a GPU\n\n" + "\n".join(refused) + "\n"
    _, mark, beyond = table.read_text().partition(_MARK) if table.is_file() else ("", "", "")
    table.write_text(text + mark + beyond)


def write_beyond(names: Sequence[str], results: Path, table: Path) -> None:
    """Write the table of what is beyond the zoo behind the first one: the rows that were run."""
    rows = [row for name in names if "export" in (row := _read(results, name))]
    size = "x".join(map(str, rows[0]["size"])) if rows else "320x320"
    text = BEYOND.format(size=size, known=len(names), count=len(rows)) + "\n".join(line(row, "batch") for row in rows) + "\n"
    notes = [f"- `{row['config']}`: {text}" for row in rows if "same_as" not in row for text in _troubles(row)]
    passed_over = [f"- `{row['config']}`: {text}" for row in rows if "same_as" not in row for text in row.get("undecided", ())]
    if notes:
        text += "\nWhat is not 1.00, and why:\n\n" + "\n".join(notes) + "\n"
    if passed_over:
        text += "\nPictures on which rounding decides, passed over (a batch takes them last):\n\n"
        text += "\n".join(passed_over) + "\n"
    before = table.read_text()
    _, mark, parts = before.partition(_PARTS)
    table.write_text(before.partition(_MARK)[0] + text + mark + parts)


_MARK = "\n## Beyond the zoo\n"
_PARTS = "\n## Other backbones, necks and heads\n"  # measured by hand, kept


def line(row: dict[str, Any], sixth: str = "script") -> str:
    """One row of a table, whose sixth column is "script" or "batch"."""
    cells = [
        f"`{row['config']}`" + (" =" if "same_as" in row else ""), _exported(row), str(row.get("detections", "-")),
        _share(row, "plugin"), _share(row, "native"), _script(row) if sixth == "script" else _share(row, sixth),
        *(_built(row, precision) for precision in ("fp32", "fp16", "int8")), str(row.get("plugin", {}).get("surgery", "-")),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _read(results: Path, name: str) -> dict[str, Any]:
    path = results / f"{name.replace('/', '--')}.json"
    return json.loads(path.read_text()) if path.is_file() else {"config": name}


def _exported(row: dict[str, Any]) -> str:
    step = row.get("export")
    return "-" if step is None else "no" if "error" in step else f"opset {step['opset']}"


def _share(row: dict[str, Any], form: str) -> str:
    step = row.get(form)
    if step is None:
        return "-"
    return "failed" if "error" in step else f"{step['share']:.2f}" + ("" if step["exact"] else " (differs)")


def _script(row: dict[str, Any]) -> str:
    step = row.get("script")
    if step is None:
        return "-"
    return _share(row, "script") if step.get("exported", True) else "not exported"


def _built(row: dict[str, Any], precision: str) -> str:
    step = row.get(precision)
    return "-" if step is None else "failed" if "error" in step else "yes" if step["built"] else "no"


def _counts(rows: Sequence[dict[str, Any]]) -> str:
    def count(step: str, good: Any) -> str:
        run = [row[step] for row in rows if step in row]
        return f"{sum(bool(good(each)) for each in run)} of {len(run)} run"

    exact = {form: count(form, lambda step: step.get("exact")) for form in ("plugin", "native")}
    parts = [
        f"exported by `onnxgraft export`: {count('export', lambda step: 'error' not in step)}",
        *(f"strict match 1.00, {form}: {words}" for form, words in exact.items()),
        f"exported by detectron2's own script: {count('script', lambda step: step.get('exported', True))}",
        f"strict match 1.00 of these: {sum(bool(row.get('script', {}).get('exact')) for row in rows)}",
        *(f"RTX {p}: {count(p, lambda step: step.get('built'))}" for p in ("fp32", "fp16", "int8")),
    ]
    return f"Of {len(rows)}, rows with `=` counted:\n\n" + "\n".join(f"- {part}" for part in parts)


def _troubles(row: dict[str, Any]) -> list[str]:
    found = []
    for step in ("export", "plugin", "native", "batch", "script", "fp32", "fp16", "int8"):
        result = row.get(step, {})
        if "error" in result:
            found.append(f"{step}: {result['error']}")
        elif result.get("exact") is False:
            found.append(f"{step}: {result['said']}")
    return found
