"""Detections of a build for picture files: JSON, drawn pictures, and a line on what ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from onnxgraft.errors import InputError
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
        engine: see runtime.infer.Session.
        progress: called with each file's name.
        proposals: the boxes that a Fast R-CNN classifies, see runtime.proposals.read.

    Returns:
        One line per picture, and what ran where the engine could not.

    Raises:
        InputError: an unreadable picture, or a place that cannot be written.
    """
    session = Session(run, engine=engine, proposals=read_proposals(proposals) if proposals else none_given)
    if any(edges):
        session.rule = ResizeRule(edges[0] or session.rule.shortest_edge, edges[1] or session.rule.longest_edge)
    if drawn is not None:
        try:
            drawn.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{drawn}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    names = _unique_names(images)
    rows, lines = [], [f"note: {session.notice}"] if session.notice else []
    for path, name, result in zip(images, names, session.run(images), strict=True):
        progress(path.name)
        found = result.found.select(result.found.detections.scores >= min_score)
        lines.append(f"{path}: {_count(found, result)}")
        if json_file is not None:
            rows.append(row(path, name, found, result, json_file))
        if drawn is not None:
            names_of, semantic_names = (session.manifest.get(key) for key in ("class_names", "semantic_class_names"))
            _write_picture(drawn / f"{name}.png", draw_result(result, names_of, semantic_names, min_score))
    if json_file is not None:
        results.write(json_file, rows)
    return lines


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


def _count(found: ImageDetections, result: ImageResult) -> str:
    if result.panoptic is not None:
        return f"{len(found)} detections, {len(result.panoptic.info)} panoptic segments"
    if result.semantic is not None:
        return f"{len(np.unique(result.semantic))} semantic classes"
    return f"{len(found)} detections"


def _unique_names(images: Sequence[Path]) -> list[str]:
    """File stems; pictures of the same name in different folders get a number."""
    seen: dict[str, int] = {}
    names = []
    for path in images:
        count = seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(path.stem if count == 1 else f"{path.stem}_{count}")
    return names


def _write_picture(path: Path, image: np.ndarray) -> None:
    encoded, data = cv2.imencode(".png", image)
    if not encoded:
        raise InputError(f"{path}: the picture cannot be encoded")
    write_atomically(path, data.tobytes())
