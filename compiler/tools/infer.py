"""Detections of a build for picture files: JSON, drawn pictures, and a line on what ran."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError, add_note, os_reason
from onnxgraft.files import write_atomically
from onnxgraft.runtime import panoptic, results, semantic
from onnxgraft.runtime.draw import draw_result
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.runtime.postprocess import ImageDetections
from onnxgraft.runtime.proposals import none as none_given
from onnxgraft.runtime.proposals import read as read_proposals
from onnxgraft.runtime.session import ImageResult, Session


def infer(
    run: Path,
    images: Sequence[Path],
    json_file: Path | None = None,
    drawn: Path | None = None,
    min_score: float = 0.0,
    edges: tuple[int | None, int | None] = (None, None),
    engine: str = "auto",
    progress: Callable[[str], None] = lambda _: None,
    proposals: Path | None = None,
) -> list[str]:
    """Run a build over pictures and write what it finds.

    Args:
        run: a build folder.
        images: picture files of any size.
        json_file: gets a list of {"file", "boxes", "scores", "classes", "masks", "keypoints", "semantic", "panoptic"},
            pixels of each picture, see `row`. Panoptic pictures go into a folder beside it.
        drawn: folder that gets each picture with what was found, under its own name as PNG.
        min_score: detections below it are left out of both; segments have a threshold of their own.
        edges: shortest and longest edge of the resize rule; None takes the model's own.
        engine: see runtime.session.Session.
        progress: called with each file's name.
        proposals: the boxes that a Fast R-CNN classifies, see runtime.proposals.read.

    Returns:
        One line per picture, a note where it was shrunk to fit the canvas, and what ran where the engine could not.

    Raises:
        InputError: an unreadable picture, or a place that cannot be written.
    """
    session = _session(run, engine, proposals, edges)
    if drawn is not None:
        _make(drawn)
    lines = [f"note: {session.notice}"] if session.notice else []

    def rows() -> Iterator[dict[str, Any]]:
        for path, name, result in zip(images, _unique_names(images), session.run(images), strict=True):
            progress(path.name)
            found = result.found.select(result.found.detections.scores >= min_score)
            lines.extend(_told(path, found, result))
            if drawn is not None:
                names = session.manifest.class_names, session.manifest.semantic_class_names
                _write_picture(drawn / f"{name}.png", draw_result(result, *names, min_score))
            yield row(path, name, found, result, json_file) if json_file is not None else {}

    _write(rows(), json_file, drawn)
    return lines


def _session(run: Path, engine: str, proposals: Path | None, edges: tuple[int | None, int | None]) -> Session:
    session = Session(run, engine=engine, proposals=read_proposals(proposals) if proposals else none_given)
    rule = session.feeder.rule
    rule = ResizeRule(edges[0] or rule.shortest_edge, edges[1] or rule.longest_edge)
    session.feeder = replace(session.feeder, rule=rule)
    return session


def _write(rows: Iterator[dict[str, Any]], json_file: Path | None, drawn: Path | None) -> None:
    """Write rows into the file, or nowhere, as they come: none is held."""
    try:
        if json_file is not None:
            results.write(json_file, rows)
        else:
            deque(rows, maxlen=0)
    except KeyboardInterrupt as stop:
        if drawn is not None:
            add_note(stop, f"{drawn} keeps the pictures that were drawn")
        raise


def row(path: Path, name: str, found: ImageDetections, result: ImageResult, json_file: Path) -> dict[str, Any]:
    """One picture for JSON: runtime.results.to_json and, of a semantic head, "semantic" as COCO's stuff results (an RLE per
    class index), of a Panoptic FPN "panoptic" as COCO's panoptic results, whose "file_name" is a PNG of segment ids beside
    `json_file`. Category ids are the model's own class indices."""
    entry = results.to_json(path, found)
    if result.semantic is not None:
        entry["semantic"] = semantic.encode(result.semantic)
    if result.panoptic is not None:
        picture = Path(f"{json_file.stem}_panoptic") / f"{name}.png"
        colours = panoptic.png_colours(result.panoptic.ids)
        _write_picture(json_file.parent / picture, colours[..., ::-1])
        entry["panoptic"] = panoptic.to_json(result.panoptic, picture.as_posix())
    return entry


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {os_reason(error)}") from error


def _told(path: Path, found: ImageDetections, result: ImageResult) -> list[str]:
    """What a user reads of one picture."""
    if result.panoptic is not None:
        count = f"{len(found)} detections, {len(result.panoptic.info)} panoptic segments"
    elif result.semantic is not None:
        count = f"{len(np.unique(result.semantic))} semantic classes"
    else:
        count = f"{len(found)} detections"
    lines = [f"{path}: {count}"]
    if result.placement.shrunk:
        (height, width), (tall, wide) = result.placement.resized, result.placement.canvas
        lines.append(
            f"note: {path}: shrunk to {height}x{width} to fit the canvas of {tall}x{wide}, so these are the answers for a "
            "smaller picture than detectron2 sees: build with a larger --size, or set --shortest-edge and --longest-edge"
        )
    return lines


def _unique_names(images: Sequence[Path]) -> list[str]:
    """File stems; pictures of the same name in different folders get a number."""
    seen: dict[str, int] = {}
    names = []
    for path in images:
        count = seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(path.stem if count == 1 else f"{path.stem}_{count}")
    return names


def _write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 3] BGR as PNG."""
    encoded, data = cv2.imencode(".png", image)
    if not encoded:
        raise InputError(f"{path}: the picture cannot be encoded")
    write_atomically(path, data.tobytes())
