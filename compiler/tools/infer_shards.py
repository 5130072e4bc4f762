"""`infer` on many machines through Ray: each source is answered by one task, and the files are those of one machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxgraft.atomic import scratch
from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.files import STDOUT, write_atomically
from onnxgraft.quantization.distributed import gather
from onnxgraft.runtime import results, sources
from onnxgraft.runtime.proposals import none as none_given
from onnxgraft.runtime.proposals import read as read_proposals
from onnxgraft.runtime.variants import open_build
from onnxgraft.tools.infer import Outputs, Summary, names_of, told_frames

JSON, DRAWN, TXT = "found", "drawn", "txt"


@dataclass(frozen=True)
class _Task:
    """What a worker is asked for; paths must be there on every machine."""

    run: Path
    found: tuple[sources.Source, ...]
    outputs: Outputs
    edges: tuple[int | None, int | None]
    engine: str
    proposals: Path | None


@dataclass(frozen=True)
class _Part:
    """What a worker gives: counts, lines for the user, rows of JSON by the source's stem, files by their place, names."""

    summary: Summary
    lines: list[str]
    rows: dict[str, list[dict[str, Any]]]
    files: dict[str, bytes]
    names: tuple[str, ...]


def infer_shards(
    run: Path, images: Sequence[str | Path], outputs: Outputs, edges: tuple[int | None, int | None], engine: str, shards: int,
    progress: Callable[[int, int | None, str], None], proposals: Path | None, tell: Callable[[str], None],
) -> tuple[Summary, tuple[str, ...]]:  # fmt: skip
    """As infer.infer, in `shards` tasks of the Ray cluster that is connected, or of a local one.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: what a shard raised, in its words; a camera, or --limit, which no shard can count.
    """
    started = time.perf_counter()
    found = sources.find(images)
    if any(source.camera is not None for source in found) or outputs.limit is not None:
        raise InputError("--ray has no effect on a camera or with --limit: leave it out")
    there = [replace(source, path=source.path and source.path.absolute()) for source in found]
    parts = [tuple(there[i::shards]) for i in range(shards)]
    given = proposals and proposals.absolute()
    wanted = replace(outputs, names=outputs.names and outputs.names.absolute())
    calls = [(_Task(run.absolute(), part, wanted, edges, engine, given),) for part in parts if part]
    made = [part for _, part in sorted(gather(_shard, calls, progress), key=lambda row: row[0])]
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in made:  # the sources keep the names that the user gave them
        for line in part.lines:
            tell(line)
        rows |= part.rows
        for name, data in part.files.items():
            write_atomically(_place(name, outputs), data)
    if outputs.json_file is not None:
        results.write(outputs.json_file, (row for source in found for row in rows[source.stem]))
    whole = Summary(sum(p.summary.frames for p in made), sum(p.summary.detections for p in made),
                    [line for p in made for line in p.summary.unread])  # fmt: skip
    whole.seconds = time.perf_counter() - started
    return whole, made[0].names


def _place(name: str, outputs: Outputs) -> Path:
    """Where a worker's file goes: drawn pictures and texts into their folders, panoptic pictures beside the JSON."""
    kind, _, rest = name.partition("/")
    folders = {DRAWN: outputs.drawn, TXT: outputs.txt, JSON: outputs.json_file and outputs.json_file.parent}
    folder = folders[kind]
    assert folder is not None
    return folder / rest


def _shard(task: _Task) -> tuple[_Part | None, str]:
    """Runs on a worker."""
    asked = task.outputs
    try:
        with scratch() as folder:
            held = replace(
                asked,
                json_file=asked.json_file and (STDOUT if asked.json_file == STDOUT else folder / JSON / asked.json_file.name),
                drawn=asked.drawn and folder / DRAWN,
                txt=asked.txt and folder / TXT,
            )
            given = read_proposals(task.proposals) if task.proposals else none_given
            build = open_build(task.run, engine=task.engine, edges=task.edges, proposals=given)
            names, summary, lines = names_of(build, asked), Summary(), list[str]()
            rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for told in told_frames(build, task.found, held, names, summary, tell=lines.append):
                if told.row is not None:
                    rows[told.frame.source.stem].append(told.row)
            made = [p for kind in (JSON, DRAWN, TXT) for p in (folder / kind).rglob("*") if p.is_file()]
            files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in made}
            return _Part(summary, lines, dict(rows), files, names.things), ""
    except OnnxgraftError as error:
        return None, str(error)
