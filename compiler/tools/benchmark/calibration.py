"""Calibration beside onnxruntime.quantization's on the same graph and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from onnxgraft.atomic import scratch
from onnxgraft.errors import OnnxgraftError
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog
from onnxgraft.instruments.stage import feeder
from onnxgraft.options import Options, Size
from onnxgraft.quantization.calibrate import Prepared, prepare
from onnxgraft.quantization.collect import collect
from onnxgraft.quantization.dataset import FEW_SCENES, Picture, drawn
from onnxgraft.runtime.feeds import Feeder, Feeds
from onnxgraft.tools.benchmark.process import Measured, Rows, measure

OURS = "onnxgraft"
METHODS = ("Entropy", "Percentile", "MinMax")  # of onnxruntime.quantization


def calibration(
    model: str, images: int = 8, many: int = 0, size: tuple[int, int] = (1344, 1344),
    progress: Callable[[str], None] = lambda _: None,
) -> Rows:  # fmt: skip
    """A table: seconds an image and peak MiB of calibrating `model` on drawn scenes, and ratios of both to the last method's,
    which is MinMax, the cheapest; another one of onnxruntime's that fails says so in its row.

    Args:
        model: an .onnx file, or the name of a golden graph.
        images: for all calibrators.
        many: a second, larger number of images for ours, to see that memory does not grow; 0 for none.
        size: height and width of the canvas.
        progress: called with a word on what runs.
    """
    catalog.resolve(model, CACHE)
    subjects = [(OURS, images), *((method, images) for method in METHODS)]
    if many:
        subjects.append((OURS, many))
    found: list[tuple[str, int, Measured | OnnxgraftError]] = []
    for method, count in subjects:
        name = method if method == OURS else f"onnxruntime {method}"
        progress(f"{name}, {count} images")
        try:
            found.append((name, count, measure(f"{__name__}:calibrating", method, model, count, *size)))
        except OnnxgraftError as error:
            if method in (OURS, METHODS[-1]):
                raise
            found.append((name, count, error))  # Entropy holds all tensors of all images
    _, images, base = found[len(METHODS)]
    assert isinstance(base, Measured)
    least = base.seconds / images
    rows: Rows = [("calibration", "images", "s/image", "peak MiB", "above load, MiB", "time / MinMax", "above load / MinMax")]
    for name, count, one in found:
        if isinstance(one, OnnxgraftError):
            rows.append((f"{name}: {one}", str(count), "-", "-", "-", "-", "-"))
            continue
        seconds = one.seconds / count
        above = one.peak_mib - one.ready_mib
        share = above / (base.peak_mib - base.ready_mib)
        rows.append((name, str(count), f"{seconds:.2f}", f"{one.peak_mib:.0f}", f"{above:.0f}", f"{seconds / least:.2f}",
                     f"{share:.2f}"))  # fmt: skip
    return rows


def calibrating(method: str, model: str, images: str, height: str, width: str) -> Callable[[], None]:
    """One row: our calibration, or onnxruntime's by a method; more images than there are scenes repeat them."""
    size, count = (int(height), int(width)), int(images)
    prepared = prepare(model, Options(size=Size(*size)))
    crops = [replace(p, load=_crop(p, size)) for p in drawn(min(count, FEW_SCENES))]
    pictures = [replace(crops[i % len(crops)], name=f"{i}", digest=f"{i}") for i in range(count)]

    def ours() -> None:
        collect(prepared.graph, prepared.ctx, prepared.names, prepared.key, pictures, rule=prepared.rule)

    return ours if method == OURS else lambda: _theirs(prepared, pictures, method)


def _crop(picture: Picture, size: tuple[int, int]) -> Callable[[], NDArray[np.uint8]]:
    held = picture.load()[: size[0], : size[1]].copy()  # drawing is not what is measured
    return lambda: held


class _Reader(CalibrationDataReader):
    """Pictures as onnxruntime.quantization asks for them."""

    def __init__(self, pictures: Sequence[Picture], feeds: Feeder) -> None:
        self._left, self._feeds = iter(pictures), feeds

    def get_next(self) -> Feeds | None:
        picture = next(self._left, None)
        return self._feeds([picture.load()]) if picture else None


def _theirs(prepared: Prepared, pictures: Sequence[Picture], method: str) -> None:
    reader = _Reader(pictures, feeder(prepared.graph, prepared.ctx, prepared.rule))
    with scratch() as folder:
        path = folder / "model.onnx"
        prepared.graph.save(path)
        kinds = ["Conv", "ConvTranspose", "Gemm"]
        augmented = str(folder / "augmented.onnx")
        calibrator = create_calibrator(str(path), kinds, augmented, getattr(CalibrationMethod, method))
        calibrator.collect_data(reader)
        calibrator.compute_data()
