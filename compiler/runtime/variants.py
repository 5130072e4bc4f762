"""A build of several canvases and batches answers with the smallest canvas that holds a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError
from onnxgraft.files import inside
from onnxgraft.manifest import MANIFEST, VARIANTS, Manifest
from onnxgraft.runtime import proposals as proposal_ops
from onnxgraft.runtime.images import Placement, ResizeRule, read_image
from onnxgraft.runtime.session import ImageResult, Loaded, Picture, Session


class Variants:
    """Sessions of one model for several canvases and batches, behind a session's interface.

    A picture goes to the smallest canvas that holds it, by its pixels; the largest one where none does. Pictures are
    answered in their order.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = sorted(sessions, key=lambda s: (s.canvas[0] * s.canvas[1], s.canvas, s.batch))
        self.manifest = sessions[0].manifest
        self.directory = sessions[0].directory
        self.notice = next((s.notice for s in sessions if s.notice), "")
        self.batch = max(s.batch for s in sessions)
        self.canvas = max((s.canvas for s in sessions), key=lambda c: c[0] * c[1])

    def run(self, images: Iterable[Picture]) -> Iterator[ImageResult]:
        """As Session.run; as many pictures as the largest batch are looked at together."""
        remaining = iter(images)
        while chunk := [self.load(image) for image in islice(remaining, self.batch)]:
            results: dict[int, ImageResult] = {}
            for canvas in dict.fromkeys(one.placed[1].canvas for one in chunk):
                rows = [i for i, one in enumerate(chunk) if one.placed[1].canvas == canvas]
                results |= zip(rows, self._run([chunk[i] for i in rows], canvas), strict=True)
            for index in range(len(chunk)):
                yield results[index]

    def _run(self, pictures: list[Loaded], canvas: tuple[int, int]) -> Iterator[ImageResult]:
        """Through the batches that are there: the largest that is filled, at last the smallest that takes the rest."""
        batches = [s for s in self.sessions if s.canvas == canvas]
        while pictures:
            filled = [s for s in batches if s.batch <= len(pictures)]
            session = filled[-1] if filled else batches[0]
            part, pictures = pictures[: session.batch], pictures[session.batch :]
            yield from session.run(part)

    def load(self, image: Picture) -> Loaded:
        """Read and place an image on the canvas that it goes to. Raises InputError."""
        if isinstance(image, Loaded):
            return image
        pixels = read_image(image) if isinstance(image, (str, Path)) else image
        loaded = self._for(pixels.shape[:2]).load(pixels)
        return replace(loaded, file=Path(image)) if isinstance(image, (str, Path)) else loaded

    def _for(self, size: tuple[int, ...]) -> Session:
        height, width = int(size[0]), int(size[1])
        if height and width:
            for session in self.sessions:
                if not Placement.of((height, width), session.manifest.io.area, session.feeder.rule).shrunk:
                    return session
        return self.sessions[-1]

    def close(self) -> None:
        """Let go of all engines."""
        for session in self.sessions:
            session.close()


Build = Session | Variants


def open_build(
    folder: str | Path,
    engine: str = "auto",
    edges: tuple[int | None, int | None] = (None, None),
    threads: int | None = None,
    proposals: proposal_ops.Proposals = proposal_ops.none,
) -> Build:
    """What answers for a build folder: a session, or one for each of its variants.

    Args:
        folder, engine, threads, proposals: see Session.
        edges: shortest and longest edge of the resize rule; None takes the build's own.

    Raises:
        InputError: the folder holds no build.
    """

    def session(place: Path) -> Session:
        opened = Session(place, engine, threads=threads, proposals=proposals)
        rule = opened.feeder.rule
        wanted = ResizeRule(edges[0] or rule.shortest_edge, edges[1] or rule.longest_edge)
        opened.feeder = replace(opened.feeder, rule=wanted)
        return opened

    first = Path(folder)
    names = Manifest.read(first).variants
    if not names:
        return session(first)
    places = [inside(first, f"{VARIANTS}/{name}", MANIFEST) for name in names]
    missing: list[Any] = [place for place in places if not place.is_dir()]
    if missing:
        raise InputError(f"{missing[0]}: a variant of the build is not there; build it again")
    return Variants([session(place) for place in [first, *places]])
