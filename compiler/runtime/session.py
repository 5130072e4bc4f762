"""A finished build answers for images: the engine where its runtime is, else ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft import targets
from onnxgraft.detector.panoptic import Combine
from onnxgraft.errors import InputError, OnnxgraftError, TargetError
from onnxgraft.files import inside
from onnxgraft.manifest import MANIFEST, Manifest
from onnxgraft.runtime import images as image_ops
from onnxgraft.runtime import proposals as proposal_ops
from onnxgraft.runtime import semantic
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.feeds import Feeder, Feeds, Placed
from onnxgraft.runtime.panoptic import Panoptic
from onnxgraft.runtime.panoptic import combine as merge
from onnxgraft.runtime.postprocess import ImageDetections, to_original
from onnxgraft.runtime.read_outputs import from_outputs


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What one image gave. file: None for an image that came as an array. raw: on the canvas, in
    its pixels. found: in the original image's coordinates. combine: how segments are merged."""

    file: Path | None
    image: NDArray[np.uint8]
    placement: image_ops.Placement
    raw: Detections
    found: ImageDetections
    combine: Combine = field(default_factory=Combine)

    @property
    def detects_nothing(self) -> bool:
        """Whether the network only segments: no boxes, by its kind."""
        return self.raw.semantic is not None and self.raw.masks is None and not len(self.raw)

    @cached_property
    def semantic(self) -> NDArray[np.int32] | None:
        """The semantic class of each pixel of the original image, int32 [H, W]; None without a semantic head."""
        return None if self.raw.semantic is None else semantic.labels(self.raw.semantic, self.placement)

    @cached_property
    def panoptic(self) -> Panoptic | None:
        """Panoptic segments of the original image; None unless there are masks and a semantic head."""
        classes = self.semantic
        if classes is None or self.found.detections.masks is None:
            return None
        return merge(self.found, classes, self.combine)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A picture that is read and placed. file: None for an array. pixels: uint8 [H, W, 3] BGR. placed: see Session.place."""

    file: Path | None
    pixels: NDArray[np.uint8]
    placed: Placed


Picture = str | Path | NDArray[np.uint8] | Loaded


class Session:
    """Inference over a build directory.

    notice: what the user should know of how it runs ("... ONNX Runtime runs model.onnx instead"), or ""
    when the engine itself runs. engine: "auto" takes the engine where it can run; "onnxruntime"
    never does; "required" raises TargetError where it cannot. rule: overrides the manifest's. proposals: the
    boxes that a Fast R-CNN classifies. Raises InputError for a directory that holds no build.
    """

    def __init__(
        self,
        build: str | Path,
        engine: str = "auto",
        rule: image_ops.ResizeRule | None = None,
        threads: int | None = None,
        proposals: proposal_ops.Proposals = proposal_ops.none,
    ) -> None:
        self.proposals = proposals
        self.directory = Path(build)
        self.manifest = Manifest.read(self.directory)
        self.feeder = Feeder.of(self.manifest.io, self.manifest.preprocess)
        if rule is not None:
            self.feeder = replace(self.feeder, rule=rule)
        self.canvas = self.manifest.io.image.canvas
        self.batch = self.manifest.io.image.batch
        self._runner, self.notice = _runner(self.directory, self.manifest, engine, threads)

    def run(self, images: Iterable[Picture]) -> Iterator[ImageResult]:
        """Results in the images' order. An image is a path, uint8 [H, W, 3] BGR, or what `load` gave.

        Images go through in batches of the compiled size; the last one is filled up with its own
        last image, whose extra answers are dropped. Raises InputError at the first unreadable one.
        """
        remaining = iter(images)
        while chunk := [self.load(image) for image in islice(remaining, self.batch)]:
            yield from self._run_batch(chunk)

    def load(self, image: Picture) -> Loaded:
        """Read and place an image, which another thread may do ahead of `run`. Raises InputError."""
        if isinstance(image, Loaded):
            return image
        file = None if isinstance(image, np.ndarray) else Path(image)
        pixels = image if isinstance(image, np.ndarray) else image_ops.read_image(image)
        return Loaded(file, pixels, self.place(pixels))

    def run_feeds(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The network's outputs for its inputs ([N, 3, H, W], ...), nothing else: what a latency is measured on."""
        return self._runner(feeds)

    @property
    def runner(self) -> targets.Runner:
        """What runs: the engine's runner, or ONNX Runtime's."""
        return self._runner

    def close(self) -> None:
        """Let go of the engine and its memory; what runs after it raises InputError."""
        self._runner = _Closed(self.directory)

    def _run_batch(self, chunk: Sequence[Loaded]) -> Iterator[ImageResult]:
        outputs = self.run_feeds(self.feeds([one.placed for one in chunk], [one.file for one in chunk]))
        combine = self.manifest.panoptic or Combine()
        for i, one in enumerate(chunk):
            raw, placement = from_outputs(outputs, self.manifest.io, i), one.placed[1]
            yield ImageResult(one.file, one.pixels, placement, raw, to_original(raw, placement), combine)

    def place(self, image: NDArray[np.uint8]) -> Placed:
        """The tensor of one image, uint8 [H, W, 3] BGR, as this build's input wants it, and where the image lies in it."""
        return self.feeder.place(image)

    def feeds(self, placed: Sequence[Placed], files: Sequence[Path | None] = ()) -> Feeds:
        """The network's inputs for at most one batch of placed images, whose files only proposals are looked up by."""
        if self.manifest.io.proposals is None:
            return self.feeder.batch(placed)
        named = [*files, *[None] * (len(placed) - len(files))]
        boxes = [self.proposals(f, placement.original) for f, (_, placement) in zip(named, placed, strict=True)]
        return self.feeder.batch(placed, boxes)


class _Closed(targets.Runner):
    """Stands where a session's engine was."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Raises InputError."""
        raise InputError(f"{self._directory}: this session is closed; open another one")


def _runner(directory: Path, manifest: Manifest, engine: str, threads: int | None) -> tuple[targets.Runner, str]:
    reason = ""
    if engine != "onnxruntime":
        runner, reason = _engine_runner(directory, manifest)
        if runner is not None:
            return runner, ""
        if engine == "required":
            raise TargetError(f"the engine cannot run here: {reason or 'the build has none'}")
    form = "the same graph" if manifest.runnable == manifest.model else "its form with plugins as functions"
    notice = f"the engine cannot run here ({reason}): ONNX Runtime runs {manifest.runnable} instead, {form}"
    runnable = targets.OrtRunner(inside(directory, manifest.runnable, MANIFEST), threads)
    return runnable, notice if reason else ""


def _engine_runner(directory: Path, manifest: Manifest) -> tuple[targets.Runner | None, str]:
    """The engine ready to run, or None and the reason ("" when the build has no engine)."""
    if manifest.engine is None:
        return None, ""
    target = targets.get(manifest.target)
    try:
        reason = target.can_run()
        if reason is None:
            return target.runner(inside(directory, manifest.engine, MANIFEST)), ""
        return None, reason
    except OnnxgraftError as error:
        return None, f"{error}{built_by_another(manifest, target.version())}"


def built_by_another(manifest: Manifest, here: str) -> str:
    """What to say of an engine that does not load: the version that built it, where another one (`here`) is installed."""
    builder = (manifest.engine_info or {}).get("module", "")
    if not builder or builder == here:
        return ""
    return f"; it was built by {builder}, and {here} is here: build it again, or with --versionCompatible"
