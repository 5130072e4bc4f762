"""Detections of a build for pictures, folders, videos and cameras: JSON, text, drawn pictures, and a line on each.

Reading, running and writing go on at the same time: what is read next, and what was found last, have threads of their own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files import STDOUT, check_writable
from onnxgraft.runtime import class_names, results, sources
from onnxgraft.runtime.ahead import ahead, behind
from onnxgraft.runtime.proposals import none as none_given
from onnxgraft.runtime.proposals import read as read_proposals
from onnxgraft.runtime.session import ImageResult, Loaded
from onnxgraft.runtime.sources import Frame
from onnxgraft.runtime.variants import Build, open_build
from onnxgraft.tools.outputs import Drawing, Names, Told, row, said, write_text

DRAWN_SCORE = 0.5  # of what is drawn unless something else is asked for
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What becomes of the detections.

    Attributes:
        json_file: gets a list of objects, one a picture or frame, see tools.outputs.row; panoptic pictures go into a folder
            beside it. files.STDOUT prints the list.
        drawn: folder that gets each picture with what was found as PNG, each video as MP4.
        txt: folder that gets a text file of each picture or frame, as NVIDIA's sample writes them.
        min_score: detections below it are left out of all; None leaves all in files, and draws those of at least
            DRAWN_SCORE. Segments have a threshold of their own.
        names: a file of class names instead of the build's, see runtime.class_names.read.
        strict: the first picture that cannot be read ends the run, instead of being passed over.
        limit: at most so many pictures and frames.
    """

    json_file: Path | None = None
    drawn: Path | None = None
    txt: Path | None = None
    min_score: float | None = None
    names: Path | None = None
    strict: bool = False
    limit: int | None = None

    @property
    def least(self) -> float:
        """The least score that is written."""
        return self.min_score or 0.0

    @property
    def least_drawn(self) -> float:
        """The least score that is drawn."""
        return DRAWN_SCORE if self.min_score is None else self.min_score


@dataclass
class Summary:
    """What a run came to: pictures and frames that were answered, detections in all, those that could not be read, in a
    line each, whether a camera was stopped, and seconds."""

    frames: int = 0
    detections: int = 0
    unread: list[str] = field(default_factory=list)
    stopped: bool = False
    seconds: float = 0.0


def infer(
    run: Path,
    images: Sequence[str | Path],
    outputs: Outputs | None = None,
    edges: tuple[int | None, int | None] = (None, None),
    engine: str = "auto",
    progress: Progress = lambda done, total, name: None,
    proposals: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Summary, tuple[str, ...]]:
    """Run a build over pictures and write what it finds.

    Args:
        run: a build folder.
        images: pictures of any size, folders, patterns, videos, a camera's index; see runtime.sources.find.
        outputs: what is written.
        edges: shortest and longest edge of the resize rule; None takes the model's own.
        engine: see runtime.session.Session.
        progress: called with (frames done, frames in all where that is known, the one that was done).
        proposals: the boxes that a Fast R-CNN classifies, see runtime.proposals.read.
        tell: called with each line for the user: a picture, a video, a note.

    Returns:
        What it came to, and the class names that were used.

    Raises:
        InputError: nothing to run, or a place that cannot be written; with `strict`, an unreadable picture.
    """
    outputs, started = outputs or Outputs(), time.perf_counter()
    build = open_build(run, engine=engine, edges=edges, proposals=read_proposals(proposals) if proposals else none_given)
    found, names, summary = sources.find(images), names_of(build, outputs), Summary()
    if build.notice:
        tell(f"note: {build.notice}")
    if outputs.json_file is not None:
        check_writable(outputs.json_file)
    told = told_frames(build, found, outputs, names, summary, progress, tell)
    if outputs.json_file is not None:
        results.write(outputs.json_file, (one.row for one in told if one.row is not None))
    else:
        deque(told, maxlen=0)
    summary.seconds = time.perf_counter() - started
    build.close()
    return summary, names.things


def told_frames(
    build: Build, found: Sequence[sources.Source], outputs: Outputs, names: Names, summary: Summary,
    progress: Progress = lambda done, total, name: None, tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Told]:  # fmt: skip
    """Run a build over sources, write all but the JSON, and give what is told of each frame; `summary` is counted up."""
    counts = [source.frames for source in found]
    total = None if None in counts else sum(count or 0 for count in counts)
    total = outputs.limit if total is None else min(total, outputs.limit or total)
    with Drawing(outputs.drawn, names, outputs.least_drawn) as drawing:
        done = _answers(build, found, outputs, drawing, names, summary, tell)
        live = any(source.camera is not None for source in found)
        yield from _counted(done, summary, lambda n, name: progress(n, total, name), tell, live)


def names_of(build: Build, outputs: Outputs) -> Names:
    """The class names that are used. Raises InputError."""
    manifest = build.manifest
    things: tuple[str, ...] = manifest.class_names
    if outputs.names is not None:
        things = class_names.read(outputs.names, manifest.classes)
    return Names(things, manifest.semantic_class_names)


def _answers(
    build: Build, found: Sequence[sources.Source], outputs: Outputs, drawing: Drawing, names: Names, summary: Summary,
    tell: Callable[[str], None],
) -> Iterator[Told]:  # fmt: skip
    """What was done with each frame, in their order."""
    read = (frame for source in found for frame in sources.frames(source))
    placed = ((frame, None if frame.image is None else _loaded(build, frame)) for frame in islice(read, outputs.limit))
    waiting: deque[Frame] = deque()

    def readable() -> Iterator[Loaded]:
        for frame, loaded in ahead(placed, build.batch + 1):
            if loaded is None:
                if outputs.strict:
                    raise InputError(frame.error)
                summary.unread.append(frame.error)
                tell(f"note: passed over: {frame.error}")
                continue
            waiting.append(frame)
            yield loaded

    def write(pair: tuple[Frame, ImageResult]) -> Told:
        frame, result = pair
        kept = result.found.select(result.found.detections.scores >= outputs.least)
        drawing.add(frame, result)
        if outputs.txt is not None:
            write_text(outputs.txt, frame, kept)
        entry = row(frame, kept, result, outputs.json_file, names) if outputs.json_file is not None else None
        return Told(frame, len(kept), said(frame, kept, result), entry)

    yield from behind(write, ((waiting.popleft(), result) for result in build.run(readable())), build.batch + 1)


def _loaded(build: Build, frame: Frame) -> Loaded:
    assert frame.image is not None
    loaded = build.load(frame.image)
    return Loaded(frame.source.path, loaded.pixels, loaded.placed)


def _counted(
    done: Iterator[Told], summary: Summary, progress: Callable[[int, str], None], tell: Callable[[str], None], live: bool
) -> Iterator[Told]:
    """The same, counted and told; an interrupt ends a camera's pictures, and they are kept."""
    videos: dict[str, list[int]] = {}
    notes: set[str] = set()
    try:
        for told in done:
            summary.frames += 1
            summary.detections += told.detections
            progress(summary.frames, told.frame.name)
            if told.frame.source.moves:
                videos.setdefault(told.frame.source.name, []).append(told.detections)
            for line in told.lines[1:] if told.frame.source.moves else told.lines:
                if line not in notes:
                    tell(line)
                    notes.add(line)
            yield told
    except KeyboardInterrupt:
        if not live:
            raise
        summary.stopped = True
    for name, counts in videos.items():
        tell(f"{name}: {len(counts)} frames, {sum(counts)} detections")


def summary_lines(outputs: Outputs, summary: Summary, names: Sequence[str]) -> list[str]:
    """What a run's last lines say: counts, and what was left out of which output."""
    count: Any = f"{summary.frames} picture{'s' * (summary.frames != 1)}"
    lines = [f"{count}, {summary.detections} detections in {summary.seconds:.1f} s"]
    if summary.unread:
        lines[0] += f"; {len(summary.unread)} could not be read"
    if outputs.drawn is not None:
        least = outputs.least_drawn
        hint = " (--min-score 0 draws all)" if outputs.min_score is None else ""
        lines.append(f"{outputs.drawn}: drawn are scores of at least {least:g}{hint}")
        if not names:
            lines.append("note: the build knows no class names, so that numbers stand for them: give --class-names FILE")
    if outputs.json_file not in (None, STDOUT):
        which = f"scores of at least {outputs.least:g}" if outputs.min_score else "all detections, whatever their score"
        lines.append(f"{outputs.json_file}: {which}")
    return lines
