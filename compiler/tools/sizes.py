"""Which canvases suit a set of pictures, and what share of the work they save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from onnxgraft.errors import InputError
from onnxgraft.runtime.images import ResizeRule
from onnxgraft.runtime.sources import Source, find, frames

STRIDE = 32
MOST = 4  # canvases of a proposal
Canvas = tuple[int, int]


@dataclass(frozen=True)
class Proposal:
    """canvases: height and width, the smallest first. shares: of the pictures, by canvas. work: pixels that run for a picture
    on average, beside those of the one canvas that holds all (1.0)."""

    canvases: tuple[Canvas, ...]
    shares: tuple[float, ...]
    work: float


def propose(
    images: Sequence[str | Path], rule: ResizeRule | None = None, most: int = MOST,
    progress: Callable[[int, int | None, str], None] = lambda done, total, name: None,
) -> tuple[list[Proposal], int, list[str]]:
    """Canvases for pictures: one that holds all, then two, up to `most`, each with the least work that merging finds.

    Args:
        images: see runtime.sources.find; of a video the first frame counts, times its frames.
        rule: how pictures are resized.
        most: canvases at most.
        progress: called with (pictures done, pictures in all, the one that was read).

    Returns:
        The proposals, how many pictures they are of, and those that could not be read, in a line each.

    Raises:
        InputError: no picture can be read.
    """
    rule, needed, unread = rule or ResizeRule(), Counter[Canvas](), list[str]()
    found = find(images)
    for number, source in enumerate(found, 1):
        try:
            size = _size(source.path) if source.path is not None and not source.moves else _first(source)
        except InputError as error:
            unread.append(str(error))
            continue
        height, width = rule.size(*size)
        needed[_up(height), _up(width)] += source.frames or 1
        progress(number, len(found), source.name)
    if not needed:
        raise InputError(unread[0])
    return [_proposal(needed, canvases) for canvases in _merged(needed, most)], sum(needed.values()), unread


def _size(path: Path) -> Canvas:
    """Height and width as they will be read, from the file's head."""
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            turned = opened.getexif().get(274) in (5, 6, 7, 8)
    except Exception as error:  # Pillow's decoders raise many kinds
        raise InputError(f"{path}: not a readable image ({str(error).splitlines()[0] if str(error) else 'damaged'})") from error
    return (width, height) if turned else (height, width)


def _first(source: Source) -> Canvas:
    frame = next(frames(source))
    if frame.image is None:
        raise InputError(frame.error)
    height, width = frame.image.shape[:2]
    return height, width


def _up(length: int) -> int:
    return -(-length // STRIDE) * STRIDE


def _merged(needed: Counter[Canvas], most: int) -> list[list[Canvas]]:
    """Sets of 1 to `most` canvases: the sizes themselves, the two that cost least merged into one that holds both, again and
    again."""
    groups: list[tuple[Canvas, int]] = list(needed.items())
    kept: list[list[Canvas]] = []
    while groups:
        if len(groups) <= most:
            kept.insert(0, sorted((canvas for canvas, _ in groups), key=_area))
        if len(groups) == 1:
            break
        pairs = [(_cost(a, b), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups[:i])]
        _, i, j = min(pairs)
        joined = _joined(groups[i][0], groups[j][0]), groups[i][1] + groups[j][1]
        groups = [group for k, group in enumerate(groups) if k not in (i, j)] + [joined]
    return kept


def _cost(a: tuple[Canvas, int], b: tuple[Canvas, int]) -> int:
    """Pixels that merging two groups adds."""
    return _area(_joined(a[0], b[0])) * (a[1] + b[1]) - _area(a[0]) * a[1] - _area(b[0]) * b[1]


def _joined(a: Canvas, b: Canvas) -> Canvas:
    return max(a[0], b[0]), max(a[1], b[1])


def _area(canvas: Canvas) -> int:
    return canvas[0] * canvas[1]


def _proposal(needed: Counter[Canvas], canvases: Sequence[Canvas]) -> Proposal:
    counts, pixels = dict.fromkeys(canvases, 0), 0
    whole = _area((max(h for h, _ in needed), max(w for _, w in needed)))
    for (height, width), number in needed.items():
        canvas = next(c for c in canvases if c[0] >= height and c[1] >= width)
        counts[canvas] += number
        pixels += _area(canvas) * number
    total = sum(needed.values())
    return Proposal(tuple(canvases), tuple(n / total for n in counts.values()), pixels / (whole * total))
