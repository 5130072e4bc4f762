"""What a user names as pictures: files, folders, patterns, videos and cameras, one frame after the other."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxgraft.errors import InputError, os_reason
from onnxgraft.runtime.images import read_image

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts"})
_FPS = 25.0  # of a source that does not say


@dataclass(frozen=True)
class Source:
    """One thing that gives frames.

    Attributes:
        name: as the user knows it.
        stem: what its results are called; no other source has it.
        path: its file; None for a camera.
        camera: the index of a camera.
        frames: how many there are, as far as it is known before they are read: 1 for a picture, None for a camera.
        fps: frames a second of a video or camera.
    """

    name: str
    stem: str
    path: Path | None = None
    camera: int | None = None
    frames: int | None = 1
    fps: float | None = None

    @property
    def moves(self) -> bool:
        """Whether it is a video or a camera."""
        return self.fps is not None


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture on its way. image: uint8 [H, W, 3] BGR, or None where it cannot be read, for which `error` has the line.
    number: of a video's frame, from 0. A video that breaks off ends with a Frame without an image."""

    source: Source
    image: NDArray[np.uint8] | None
    number: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.source.name} frame {self.number}" if self.source.moves else self.source.name


def find(words: Sequence[str | Path]) -> list[Source]:
    """The sources that a command line names: pictures, folders of them, patterns such as `*.jpg`, videos, a camera's index.

    Folders and patterns give their pictures and videos in the order of their names, and leave other files aside.

    Raises:
        InputError: a URL, a pattern or a folder without pictures, a video or camera that cannot be opened.
    """
    if not words:
        raise InputError("give pictures: files, folders, patterns, videos, or the index of a camera")
    places: list[Path | int] = []
    for word in words:
        places += _places(str(word))
    stems = _unique([f"camera_{p}" if isinstance(p, int) else p.stem for p in places])
    return [_source(place, stem) for place, stem in zip(places, stems, strict=True)]


def frames(source: Source) -> Iterator[Frame]:
    """The frames of a source, read one by one; what cannot be read is a Frame with an error."""
    if source.moves:
        yield from _moving(source)
        return
    assert source.path is not None
    try:
        yield Frame(source, read_image(source.path))
    except InputError as error:
        yield Frame(source, None, error=str(error))


def known_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the pictures and videos that a folder gives."""
    return frozenset(Image.registered_extensions()) | VIDEOS


def _places(word: str) -> list[Path | int]:
    if "://" in word:
        raise InputError(f"{word}: is a URL; nothing is downloaded: save it as a file, and give that")
    path = Path(word)
    try:
        if path.is_dir():
            found = [p for p in sorted(path.iterdir()) if p.is_file() and p.suffix.lower() in known_suffixes()]
            if not found:
                raise InputError(f"{word}: this folder holds no pictures or videos")
            return list(found)
        if not path.exists():
            if word.isdigit():
                return [int(word)]
            if any(c in word for c in "*?["):
                found = [Path(p) for p in sorted(glob.glob(word, recursive=True)) if Path(p).is_file()]
                found = [p for p in found if p.suffix.lower() in known_suffixes()]
                if not found:
                    raise InputError(f"{word}: no picture or video has such a name")
                return list(found)
    except OSError as error:
        raise InputError(f"{word[:200]}: {os_reason(error)}") from error
    return [path]


def _source(place: Path | int, stem: str) -> Source:
    if isinstance(place, int):
        with _Capture(place) as capture:
            fps = capture.get(cv2.CAP_PROP_FPS)
        return Source(f"camera {place}", stem, camera=place, frames=None, fps=fps if 0 < fps < 1000 else _FPS)
    if place.suffix.lower() not in VIDEOS:
        return Source(str(place), stem, place)
    with _Capture(place) as capture:
        fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return Source(str(place), stem, place, frames=count if 0 < count < 1 << 31 else None, fps=fps if 0 < fps < 1000 else _FPS)


class _Capture:
    """An opened video or camera. Raises InputError where OpenCV cannot open it."""

    def __init__(self, place: Path | int) -> None:
        if isinstance(place, Path) and not place.is_file():
            raise InputError(f"{place}: no such file")
        with _Quiet():
            self.capture = cv2.VideoCapture(place if isinstance(place, int) else str(place))
        if not self.capture.isOpened():
            self.capture.release()
            what = f"camera {place}: there is none, or it is in use" if isinstance(place, int) else (
                f"{place}: not a video that OpenCV can decode: truncated, or of an unknown kind")  # fmt: skip
            raise InputError(what)

    def __enter__(self) -> cv2.VideoCapture:
        return self.capture

    def __exit__(self, *_: object) -> None:
        self.capture.release()


class _Quiet:
    """OpenCV and the decoders under it write to the process's stderr: not while this is entered."""

    def __enter__(self) -> None:
        self.level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

    def __exit__(self, *_: object) -> None:
        cv2.utils.logging.setLogLevel(self.level)


def _moving(source: Source) -> Iterator[Frame]:
    place = source.path if source.camera is None else source.camera
    assert place is not None
    number = 0
    with _Capture(place) as capture:
        while True:
            good, image = capture.read()
            if not good:
                break
            yield Frame(source, _three_channels(np.asarray(image, np.uint8)), number)
            number += 1
    if source.frames is not None and number < source.frames:
        yield Frame(source, None, number, f"{source.name}: ends after {number} of {source.frames} frames: it is damaged there")


def _three_channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, 2)


def _unique(stems: Sequence[str]) -> list[str]:
    """Names of their own: of those that occur twice, the later ones get a number that no other has."""
    taken, names = set(stems), []
    seen: set[str] = set()
    for stem in stems:
        name, count = stem, 1
        while name in seen or (count > 1 and name in taken):
            count += 1
            name = f"{stem}_{count}"
        seen.add(name)
        names.append(name)
    return names
