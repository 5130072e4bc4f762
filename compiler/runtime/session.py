"""A finished build answers for images: the engine where its runtime is, else ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft import targets
from onnxgraft.detector.spec import Combine
from onnxgraft.errors import OnnxgraftError, TargetError
from onnxgraft.manifest import read_manifest
from onnxgraft.runtime import images as image_ops
from onnxgraft.runtime import proposals as proposal_ops
from onnxgraft.runtime import semantic
from onnxgraft.runtime.detections import Detections, canvas_size, from_outputs
from onnxgraft.runtime.panoptic import Panoptic, combine
from onnxgraft.runtime.postprocess import ImageDetections, to_original


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
        return combine(self.found, classes, self.combine)


class Session:
    """Inference over a build directory.

    notice: what the user should know of how it runs ("... runs in ONNX Runtime instead"), or ""
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
        self.manifest = read_manifest(self.directory)
        self.io: dict[str, Any] = self.manifest["io"]
        preprocess = self.manifest["preprocess"]
        self.rule = rule or image_ops.ResizeRule(
            int(preprocess.get("shortest_edge", 800)), int(preprocess.get("longest_edge", 1333))
        )
        self.canvas = canvas_size(self.io)
        self.batch = int(self.io["input"]["shape"][0])
        self.combine = Combine.of(self.manifest.get("panoptic") or {})
        self._mean = _mean(preprocess, self._input("order", "BGR"))
        self._runner, self.notice = _runner(self.directory, self.manifest, engine, threads)

    def run(self, images: Iterable[str | Path | NDArray[np.uint8]]) -> Iterator[ImageResult]:
        """Results in the images' order. An image is a path or uint8 [H, W, 3] BGR.

        Images go through in batches of the compiled size; the last one is filled up with its own
        last image, whose extra answers are dropped. Raises InputError at the first unreadable one.
        """
        remaining = iter(images)
        while chunk := list(islice(remaining, self.batch)):
            yield from self._run_batch(chunk)

    def run_feeds(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The network's outputs for its inputs, nothing else: what a latency is measured on."""
        return self._runner(feeds)

    def _run_batch(self, chunk: Sequence[str | Path | NDArray[np.uint8]]) -> Iterator[ImageResult]:
        files = [None if isinstance(item, np.ndarray) else Path(item) for item in chunk]
        pictures = [item if isinstance(item, np.ndarray) else image_ops.read_image(item) for item in chunk]
        placed = [self.place(picture) for picture in pictures]
        outputs = self.run_feeds(self.feeds(placed, files))
        for i, (file, picture, (_, placement)) in enumerate(zip(files, pictures, placed, strict=True)):
            raw = from_outputs(outputs, self.io, i)
            yield ImageResult(file, picture, placement, raw, to_original(raw, placement), self.combine)

    def place(self, image: NDArray[np.uint8]) -> tuple[NDArray[Any], image_ops.Placement]:
        """The tensor of one image, as this build's input wants it."""
        return image_ops.place(
            image,
            self.canvas,
            self.rule,
            mean=self._mean,
            layout=self._input("layout", "NCHW"),
            dtype=self._input("dtype", "float32"),
            order=self._input("order", "BGR"),
        )

    def feeds(
        self, placed: Sequence[tuple[NDArray[Any], image_ops.Placement]], files: Sequence[Path | None] = ()
    ) -> dict[str, NDArray[Any]]:
        """The network's inputs for at most one batch of placed images, whose files only proposals are looked up by."""
        missing = self.batch - len(placed)
        filled = [*placed, *[placed[-1]] * missing]
        feeds = {self._input("name", "input_tensor"): np.stack([tensor for tensor, _ in filled])}
        if self.io.get("image_sizes"):
            sizes = [placement.resized for _, placement in filled]
            feeds["image_sizes"] = np.array(sizes, np.float32)
        if self.io.get("proposals"):
            named = [*files, *[None] * (len(placed) - len(files))]
            rows = int(self.io["proposals"][1])
            boxes = [
                proposal_ops.place(self.proposals(file, placement.original), placement, rows)
                for file, (_, placement) in zip(named, placed, strict=True)
            ]
            feeds["proposals"] = np.stack([*boxes, *[boxes[-1]] * missing])
        return feeds

    def _input(self, key: str, default: str) -> Any:
        return self.io["input"].get(key, default)


def _mean(preprocess: Mapping[str, Any], order: str) -> list[float]:
    """The pixel mean in the channel order of the input tensor."""
    mean = [float(v) for v in preprocess.get("mean", (0, 0, 0))]
    return mean if preprocess.get("order", "BGR") == order else mean[::-1]


def _runner(directory: Path, manifest: Mapping[str, Any], engine: str, threads: int | None) -> tuple[targets.Runner, str]:
    reason = ""
    if engine != "onnxruntime":
        runner, reason = _engine_runner(directory, manifest)
        if runner is not None:
            return runner, ""
        if engine == "required":
            raise TargetError(f"the engine cannot run here: {reason or 'the build has none'}")
    notice = f"the engine cannot run here ({reason}): the same graph runs in ONNX Runtime instead"
    runnable = targets.OrtRunner(directory / str(manifest["runnable"]), threads)
    return runnable, notice if reason else ""


def _engine_runner(directory: Path, manifest: Mapping[str, Any]) -> tuple[targets.Runner | None, str]:
    """The engine ready to run, or None and the reason ("" when the build has no engine)."""
    name, file = manifest.get("target"), manifest.get("engine")
    if not name or not file or name == "onnxruntime":
        return None, ""
    try:
        target = targets.get(str(name))
        reason = target.can_run()
        if reason is None:
            return target.runner(directory / str(file)), ""
        return None, reason
    except OnnxgraftError as error:
        return None, str(error)
