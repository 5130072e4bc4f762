"""Surgery and the engine's build beside loading and saving the same file."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from onnxgraft.atomic import scratch
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog
from onnxgraft.instruments import Texts, Verify
from onnxgraft.ir.graph import Graph
from onnxgraft.options import BuilderOptions, CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.targets.trt.builder import build as build_engine
from onnxgraft.targets.trt.dialect import TENSORRT_RTX
from onnxgraft.tools.benchmark.process import Measured, Rows, measure

BASELINE = "onnx.load + onnx.save"
SUBJECTS = {
    BASELINE: f"{Path(__file__).with_name('load_save.py')}:load_save",
    "surgery, checks off": f"{__name__}:unchecked",
    "surgery with checks": f"{__name__}:checked",
    "RTX engine of the native graph": f"{__name__}:engine",
}


def surgery(model: str, repeat: int = 5, progress: Callable[[str], None] = lambda _: None) -> Rows:
    """A table: seconds (median, fastest) and peak memory of surgery on `model`, as ratios to loading and saving it."""
    source = catalog.resolve(model, CACHE)
    results: dict[str, list[Measured]] = {name: [] for name in SUBJECTS}
    for round_ in range(repeat):
        for name, place in SUBJECTS.items():
            progress(f"{name}, {round_ + 1} of {repeat}")
            with scratch() as folder:
                results[name].append(measure(place, source, str(folder)))
    base = results[BASELINE]
    rows: Rows = [("what", "seconds (median)", "fastest", "times load+save", "peak MiB", "times load+save")]
    for name, runs in results.items():
        pairs = list(zip(runs, base, strict=True))
        seconds, peaks = [r.seconds for r in runs], [r.peak_mib for r in runs]
        ratio = statistics.median(r.seconds / b.seconds for r, b in pairs)
        memory = statistics.median(r.peak_mib / b.peak_mib for r, b in pairs)
        rows.append((name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}", f"{ratio:.2f}",
                     f"{statistics.median(peaks):.0f}", f"{memory:.2f}"))  # fmt: skip
    return rows


def unchecked(source: str, folder: str) -> Callable[[], None]:
    """Surgery as fast as it goes: the detector is read, and its parts are not held against their formulas."""
    return lambda: _surgery(source, folder, checks=False)


def checked(source: str, folder: str) -> Callable[[], None]:
    """Surgery with the detector's parts held, and the graph verified and its text kept after each pass."""
    return lambda: _surgery(source, folder, checks=True)


def engine(source: str, folder: str) -> Callable[[], None]:
    """The builder, in this process, on the graph that surgery makes; the surgery itself is done before."""
    _passes(source, f"{folder}/native.onnx", "tensorrt-rtx", checks=False)

    def build() -> None:
        native, built = Path(folder) / "native.onnx", Path(folder) / "model.engine"
        build_engine(TENSORRT_RTX, "tensorrt-rtx", native, built, BuilderOptions(), {})

    return build


def _surgery(source: str, folder: str, checks: bool) -> None:
    _passes(source, f"{folder}/model.onnx", "onnxruntime", checks)


def _passes(source: str, written: str, target: str, checks: bool) -> None:
    graph = Graph.load(source)
    instruments = [Verify(), Texts()] if checks else []
    manager = PassManager(default_pipeline(CompileOptions(), target).passes, instruments, fingerprints=checks)
    manager.run(graph, Context(held=not checks))
    graph.save(written)
