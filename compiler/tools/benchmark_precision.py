"""Measurements of int8: calibration beside onnxruntime.quantization's on the same graph and images, and latencies.

Each subject runs in a process of its own, so that peak memory is its own; one table comes from one run.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxgraft.errors import OnnxgraftError
from onnxgraft.options import Options, Size
from onnxgraft.quantization.calibrate import Prepared
from onnxgraft.quantization.collect import collect, input_feeds
from onnxgraft.quantization.dataset import Picture
from onnxgraft.tools.benchmark import peak_mib

Rows = list[tuple[str, ...]]
METHODS = ("Entropy", "Percentile", "MinMax")  # of onnxruntime.quantization
DRAWN = 8  # different scenes; more images repeat them


def calibration(
    model: str, images: int = 8, many: int = 0, size: tuple[int, int] = (1344, 1344),
    progress: Callable[[str], None] = lambda _: None,
) -> Rows:  # fmt: skip
    """A table: seconds an image and peak MiB of calibrating `model` on drawn scenes.

    `many`, if not 0, is a second, larger number of images for ours, to see that memory does not grow.
    """
    subjects = [("onnxgraft", images), *((f"onnxruntime {m}", images) for m in METHODS)]
    if many:
        subjects.append(("onnxgraft", many))
    rows: Rows = [("calibration", "images", "s/image", "peak MiB", "above load, MiB")]
    for name, count in subjects:
        progress(f"{name}, {count} images")
        found = _in_process(name, model, count, size)
        rows.append((name, str(count), f"{found['seconds'] / count:.2f}", f"{found['peak']:.0f}", f"{found['above']:.0f}"))
    return rows


def latencies(
    model: str, repeat: int = 5, size: tuple[int, int] = (1344, 1344), progress: Callable[[str], None] = lambda _: None
) -> Rows:
    """A table: milliseconds in ONNX Runtime of the raw export, and compiled in fp32 and int8, run in turn."""
    from onnxgraft.files import CACHE
    from onnxgraft.golden import catalog
    from onnxgraft.quantization.calibrate import prepare
    from onnxgraft.quantization.dataset import drawn
    from onnxgraft.targets import OrtRunner

    image = drawn(1)[0].load()[: size[0], : size[1]]
    chw = image.transpose(2, 0, 1).astype(np.float32)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
        runners: dict[str, tuple[OrtRunner, np.ndarray]] = {}
        export = OrtRunner(catalog.resolve(model, CACHE))
        if size == (1344, 1344):
            runners["raw export"] = (export, chw)
        for precision in ("fp32", "int8"):
            progress(f"compiling {precision}")
            prepared = prepare(model, Options(size=Size(*size)))
            if precision == "int8":
                _quantize(prepared, model)
            path = Path(folder) / f"{precision}.onnx"
            prepared.graph.save(path)
            runners[f"compiled {precision}"] = (OrtRunner(path), chw[None])
        for round_ in range(repeat + 1):  # the first round warms up
            for name, (runner, tensor) in runners.items():
                progress(f"{name}, {round_} of {repeat}")
                started = time.perf_counter()
                runner({runner.input_names[0]: tensor})
                if round_:
                    times.setdefault(name, []).append((time.perf_counter() - started) * 1000)
    rows: Rows = [("ONNX Runtime", "ms (median)", "fastest", "to compiled fp32")]
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, times["compiled fp32"], strict=True))
        rows.append((name, f"{statistics.median(found):.0f}", f"{min(found):.0f}", f"{ratio:.2f}"))
    return rows


def _quantize(prepared: Prepared, model: str) -> None:
    from onnxgraft.files import CACHE
    from onnxgraft.passes import IntegerKernels, Quantize
    from onnxgraft.pipeline.manager import PassManager
    from onnxgraft.quantization.ranges import Provider

    prepared.ctx.range_source = Provider(model, CACHE, limit=1)  # scales do not change the time
    manager = PassManager([Quantize(), IntegerKernels()], fingerprints=False, given=prepared.ctx.facts)
    manager.run(prepared.graph, prepared.ctx)


def _in_process(subject: str, model: str, images: int, size: tuple[int, int]) -> dict[str, float]:
    command = [sys.executable, "-m", "onnxgraft.tools.benchmark_precision", subject, model, str(images), f"{size[0]}x{size[1]}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OnnxgraftError(f"benchmark of {subject} failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _main(subject: str, model: str, images: int, size: tuple[int, int]) -> None:
    """One subject in this process; prints seconds, and the peak memory with and without what stood before."""
    import onnxruntime.quantization  # noqa: F401  (imports are not what is measured)

    from onnxgraft.quantization.calibrate import prepare
    from onnxgraft.quantization.dataset import drawn

    prepared = prepare(model, Options(size=Size(*size)))
    crops = [replace(p, load=_crop(p, size)) for p in drawn(min(images, DRAWN))]
    pictures = [replace(crops[i % len(crops)], name=f"{i}", digest=f"{i}") for i in range(images)]
    before = peak_mib()
    started = time.perf_counter()
    if subject == "onnxgraft":
        collect(prepared.graph, prepared.ctx, prepared.names, prepared.key, pictures, rule=prepared.rule)
    else:
        _theirs(prepared, pictures, subject.rpartition(" ")[2])
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak": peak_mib(), "above": peak_mib() - before}))


def _crop(picture: Picture, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    held = picture.load()[: size[0], : size[1]].copy()  # drawing is not what is measured
    return lambda: held


def _theirs(prepared: Prepared, pictures: Sequence[Picture], method: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(pictures)

        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(self.left, None)
            return input_feeds(prepared.graph, prepared.ctx, [picture.load()], prepared.rule) if picture else None

    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
        path = Path(folder) / "model.onnx"
        prepared.graph.save(path)
        kinds = ["Conv", "ConvTranspose", "Gemm"]
        augmented = str(Path(folder) / "augmented.onnx")
        calibrator = create_calibrator(str(path), kinds, augmented, getattr(CalibrationMethod, method))
        calibrator.collect_data(Reader())
        calibrator.compute_data()


if __name__ == "__main__":
    height, _, width = sys.argv[4].partition("x")
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), (int(height), int(width)))
