"""Writes report.html: one self-contained page about every pass of a build."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from onnxgraft.files import read_json, write_atomically
from onnxgraft.report import overview
from onnxgraft.report.drawn import DRAWN
from onnxgraft.report.reader import PassRow, Run, read_run
from onnxgraft.report.side_by_side import rows
from onnxgraft.report.stages import NODES
from onnxgraft.report.terminal import check_text, ops_text

PAGE = "report.html"

_SCRIPTS = ("model.js", "diff.js", "pictures.js", "details.js", "main.js")
_IMAGE_EDGE = 720


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the page about the build folder `run`, into it unless `output` says where. Returns the page's path.

    Raises InputError when `run` is no build folder, or the page cannot be written.
    """
    place = Path(output) if output else Path(run) / PAGE
    text = page(read_run(run))
    write_atomically(place, text.encode(errors="replace"))  # names of files may hold bytes that are no text
    return place


def page(run: Run) -> str:
    """The page as HTML."""
    here = files("onnxgraft.report")
    read = lambda *parts: here.joinpath(*parts).read_text(encoding="utf-8")  # noqa: E731
    scripts = read("vendor", "cytoscape.min.js"), '"use strict";\n' + "".join(read("page", name) for name in _SCRIPTS)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    raw = environment.from_string(read("page", "report.html.j2"))
    nodes = run.folder / "passes" / NODES
    graph = read_json(nodes, "record of nodes") if nodes.is_file() else _EMPTY
    data = {"passes": [_pass(row) for row in run.passes], "graph": graph}
    manifest = run.manifest
    heading, kinds = overview.layers(manifest, graph)
    spec = (manifest.spec if manifest else None) or (run.failure.spec if run.failure else None) or {}
    return raw.render(
        title=manifest.source.model if manifest else run.folder.resolve().name,
        facts=_facts(run),
        failure=run.failure,
        notes=run.notes,
        proof=_proof(manifest.proof) if manifest else None,
        bars=_bars(run),
        images=list(_images(run.folder / DRAWN)),
        built=overview.built(manifest) if manifest else [],
        ends=overview.ends(manifest) if manifest else [],
        accuracy=overview.accuracy(run.folder),
        evaluation=overview.EVALUATION,
        floor=overview.floor(run.folder),
        floor_file=overview.FLOOR,
        layers_heading=heading,
        layers=kinds,
        spec=overview.detector(spec) or list(_spec_rows(spec, places=False)),
        places=list(_spec_rows(spec, places=True)),
        pipeline=manifest.pipeline if manifest else None,
        trtexec=manifest.trtexec if manifest else None,
        policy=_literal(_policy(scripts)),
        css=_literal(read("page", "report.css")),
        data=_literal(_embedded(data)),
        dagre=_literal(read("vendor", "dagre.min.js")),
        cytoscape=_literal(scripts[0]),
        script=_literal(scripts[1]),
    )


_EMPTY: dict[str, Any] = {"nodes": [], "constants": [], "stages": [], "origins": {}}


def _embedded(data: Any) -> str:
    """JSON for a script element, packed (gzip, then base64, which holds no "<"); no NaN, which browsers do not read."""
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), mtime=0)).decode()


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _literal(text: str) -> Any:
    return Markup(text)


def _policy(scripts: Iterable[str]) -> str:
    """The page's content security policy: these scripts run and no other, and nothing is loaded or sent.

    Names in a model are not ours. The page escapes them; should it ever fail to, what they smuggle in does not run.
    """
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; worker-src blob:; img-src data:; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _facts(run: Run) -> list[str]:
    manifest = run.manifest
    wanted = [manifest.target, manifest.precision] if manifest else []
    if run.passes:
        wanted.append(f"{run.passes[0].nodes_before} > {run.passes[-1].nodes_after} nodes")
        wanted.append(f"{sum(row.changed for row in run.passes)} of {len(run.passes)} passes changed the graph")
    if run.times.total:
        wanted.append(f"{run.times.total:.1f} s")
    return [fact for fact in wanted if fact]


def _proof(proof: Mapping[str, Any] | None) -> str:
    """What the build proved, as its last line has it."""
    return str(proof.get("said", "what the manifest says of it is damaged")) if proof else "nothing: the build was asked not to"


def _pass(row: PassRow) -> dict[str, Any]:
    nodes = f"{row.nodes_before} > {row.nodes_after} nodes" if row.nodes_before != row.nodes_after else ""
    return {
        "index": row.index, "name": row.name, "spec": row.spec, "changed": row.changed, "skipped": row.skipped,
        "seconds": row.seconds,
        "nodes": nodes, "ops": ops_text(row.ops()), "allOps": ops_text(row.ops(), None), "statistics": row.statistics,
        "check": check_text(row.check) if row.changed else "", "error": row.error, "does": row.does,
        "rows": list(rows(row.diff())),
    }  # fmt: skip


def _bars(run: Run) -> list[dict[str, Any]]:
    """Times of the passes and of the engine's builder, drawn against the longest of them; checks, proof and files, which a
    build without them saves, stand beside them without a bar."""
    times = [(row.name, row.seconds) for row in run.passes if row.seconds is not None]
    times += [(key.replace("_seconds", " of the engine"), s) for key, s in run.times.engine.items()]
    longest = max((seconds for _, seconds in times), default=0) or 1
    bars = [{"name": n, "percent": f"{100 * s / longest:.1f}", "text": f"{s:.2f} s"} for n, s in times]
    rest = (run.times.total or 0) - sum(seconds for _, seconds in times)
    return [*bars, {"name": "checks, proof, files", "percent": "0", "text": f"{rest:.2f} s"}] if rest > 0 else bars


def _spec_rows(spec: dict[str, Any], places: bool) -> Iterator[tuple[str, str, str]]:
    """A spec as a table: its numbers, or the places of the graph (tensors and nodes) at which the parts meet."""
    for part, content in spec.items():
        last = part.replace("_", " ")
        for what, value in _flatten(content):
            if what.endswith(("_tensor", "_tensors", "_node")) == places:
                yield last, what.replace("_", " "), value
                last = ""


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Numbers and words by name; those of several levels or maps stand in one row, "4 | 8 | 16"."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flatten(value, f"{prefix} {key}".strip())
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        rows = [dict(_flatten(value)) for value in content]
        for key in rows[0]:
            values = [row.get(key, "") for row in rows]
            yield f"{prefix} {key}".strip(), " | ".join(values if len(set(values)) > 1 else values[:1])
    elif content is not None:
        yield prefix, _value(content)


def _value(content: Any) -> str:
    if isinstance(content, float):
        return f"{content:.6g}"
    if isinstance(content, list):
        return ", ".join(_value(v) if not isinstance(v, list) else f"[{_value(v)}]" for v in content)
    return str(content)


def _images(folder: Path) -> Iterator[dict[str, str]]:
    found: Iterable[Path] = sorted(folder.iterdir()) if folder.is_dir() else ()
    for path in found:
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            continue
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            continue
        scale = min(1.0, _IMAGE_EDGE / max(picture.shape[:2]))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        yield {"name": path.name, "data": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"}
