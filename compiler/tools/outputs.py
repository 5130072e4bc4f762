"""What `infer` writes of each picture: a row of JSON, a text file, a drawn picture or video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from onnxgraft.errors import InputError, add_note, os_reason
from onnxgraft.files import STDOUT, write_atomically
from onnxgraft.runtime import panoptic, results, semantic
from onnxgraft.runtime.draw import draw_result
from onnxgraft.runtime.postprocess import ImageDetections
from onnxgraft.runtime.session import ImageResult
from onnxgraft.runtime.sources import Frame


@dataclass(frozen=True)
class Names:
    """Class names by index, of detections and of the semantic classes; empty where they are not known."""

    things: tuple[str, ...] = ()
    semantic: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Told:
    """What was done with a frame: its detections, lines for the user, and its row of JSON."""

    frame: Frame
    detections: int
    lines: list[str]
    row: dict[str, Any] | None


def row(frame: Frame, found: ImageDetections, result: ImageResult, json_file: Path, names: Names) -> dict[str, Any]:
    """One picture for JSON: runtime.results.to_json, "frame" (its number in a video) and, of a semantic head, "semantic" as
    COCO's stuff results (an RLE per class index), of a Panoptic FPN "panoptic" as COCO's panoptic results, whose "file_name"
    is a PNG of segment ids beside `json_file`. Category ids are the model's own class indices. Raises InputError for such
    pictures beside STDOUT."""
    entry = results.to_json(frame.source.name, found, names=names.things)
    if frame.source.moves:
        entry = {"file": entry.pop("file"), "frame": frame.number, **entry}
    if result.semantic is not None:
        entry["semantic"] = semantic.encode(result.semantic, names.semantic)
    if result.panoptic is not None:
        if json_file == STDOUT:
            raise InputError("--json -: panoptic segments are pictures beside the JSON: give a file")
        picture = Path(f"{json_file.stem}_panoptic") / f"{stem(frame)}.png"
        colours = panoptic.png_colours(result.panoptic.ids)
        _write_picture(json_file.parent / picture, colours[..., ::-1])
        entry["panoptic"] = panoptic.to_json(result.panoptic, picture.as_posix(), names.things, names.semantic)
    return entry


def stem(frame: Frame) -> str:
    """What a frame's own files are called: those of a video are numbered."""
    return f"{frame.source.stem}_{frame.number:06d}" if frame.source.moves else frame.source.stem


def write_text(folder: Path, frame: Frame, found: ImageDetections) -> None:
    """NAME.txt as infer.py of NVIDIA's detectron2 sample writes it: a line a detection, separated by tabs, with xmin, ymin,
    xmax, ymax in pixels of the picture, score and class. Raises InputError."""
    held = found.detections
    rows = zip(held.boxes.tolist(), held.scores.tolist(), held.classes.tolist(), strict=True)
    lines = ["\t".join([*(f"{v:.4f}" for v in box), f"{score:.6f}", str(label)]) + "\n" for box, score, label in rows]
    write_atomically(folder / f"{stem(frame)}.txt", "".join(lines).encode())


def said(frame: Frame, found: ImageDetections, result: ImageResult) -> list[str]:
    """What a user reads of one picture, and a note where it was shrunk to fit the canvas."""
    if result.panoptic is not None:
        count = f"{len(found)} detections, {len(result.panoptic.info)} panoptic segments"
    elif result.semantic is not None:
        count = f"{len(np.unique(result.semantic))} semantic classes"
    else:
        count = f"{len(found)} detections"
    lines = [f"{frame.name}: {count}"]
    if result.placement.shrunk:
        (height, width), (tall, wide) = result.placement.resized, result.placement.canvas
        lines.append(
            f"note: {frame.source.name}: shrunk to {height}x{width} to fit the canvas of {tall}x{wide}, so these are the "
            "answers for a smaller picture than detectron2 sees: build with a larger --size, or set --shortest-edge and "
            "--longest-edge"
        )
    return lines


class Drawing:
    """The folder of drawn pictures: NAME.png of each, NAME.mp4 of a video; without a folder nothing is drawn.

    A context manager: at its end the video that is being written is closed; after an error it is removed.
    """

    def __init__(self, folder: Path | None, names: Names, least: float) -> None:
        self.folder, self.names, self.least = folder, names, least
        self._video: _Video | None = None
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: cannot be written: {os_reason(error)}") from error

    def add(self, frame: Frame, result: ImageResult) -> None:
        """Draw a frame. Raises InputError where it cannot be written."""
        if self.folder is None:
            return
        picture = draw_result(result, self.names.things, self.names.semantic, self.least)
        if not frame.source.moves:
            _write_picture(self.folder / f"{frame.source.stem}.png", picture)
            return
        place = self.folder / f"{frame.source.stem}.mp4"
        if self._video is None or self._video.place != place:
            self._finish()
            self._video = _Video(place, frame.source.fps or 25.0, picture.shape[:2])
        self._video.add(picture)

    def _finish(self) -> None:
        if self._video is not None:
            self._video.finish()
        self._video = None

    def __enter__(self) -> Drawing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        elif self._video is not None:
            self._video.drop()
        if isinstance(error, KeyboardInterrupt) and self.folder is not None:
            add_note(error, f"{self.folder} keeps the pictures that were drawn")


class _Video:
    """An MP4 that appears under its name when it is whole. size: height and width in pixels."""

    def __init__(self, place: Path, fps: float, size: tuple[int, ...]) -> None:
        self.place, self.size = place, (int(size[0]), int(size[1]))
        self._part = place.with_name(f".{place.stem}.part.mp4")
        self._writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), fps, self.size[::-1])
        if not self._writer.isOpened():
            self.drop()
            raise InputError(f"{place}: OpenCV cannot write a video there")

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append uint8 [H, W, 3] BGR; a frame of another size is fitted to the first one's."""
        if picture.shape[:2] != self.size:
            picture = np.asarray(cv2.resize(picture, self.size[::-1]), np.uint8)
        self._writer.write(picture)

    def finish(self) -> None:
        """Close it, and give it its name."""
        self._writer.release()
        try:
            self._part.replace(self.place)
        except OSError as error:
            raise InputError(f"{self.place} cannot be written: {os_reason(error)}") from error

    def drop(self) -> None:
        """Leave nothing behind."""
        self._writer.release()
        self._part.unlink(missing_ok=True)


def _write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 3] BGR as PNG."""
    encoded, data = cv2.imencode(".png", image)
    if not encoded:
        raise InputError(f"{path}: the picture cannot be encoded")
    write_atomically(path, data.tobytes())
