"""Measurements: surgery beside loading and saving the same file, and the latency of a build beside the export's.

Each measurement of surgery runs in a process of its own, so that peak memory is its own; times leave Python's imports
out. Rows of one table come from one run on one machine, in turn, and ratios are what to quote.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgraft.errors import OnnxgraftError

if TYPE_CHECKING:
    from onnxgraft.runtime.session import Session

Rows = list[tuple[str, ...]]
SUBJECTS = {
    "onnx.load + onnx.save": "load_save",
    "surgery, checks off": "surgery",
    "surgery with checks": "surgery_checked",
    "RTX engine of the native graph": "engine",
}


def surgery(model: str, repeat: int = 5, progress: Callable[[str], None] = lambda _: None) -> Rows:
    """A table: seconds (median, fastest) and peak memory of surgery on `model`, as ratios to loading and saving it."""
    from onnxgraft.files import CACHE
    from onnxgraft.golden import catalog

    source = catalog.resolve(model, CACHE)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in SUBJECTS}
    for round_ in range(repeat):
        for name, subject in SUBJECTS.items():
            progress(f"{name}, {round_ + 1} of {repeat}")
            results[name].append(_in_process(subject, source))
    base = results["onnx.load + onnx.save"]
    rows: Rows = [("what", "seconds (median)", "fastest", "times load+save", "peak MiB", "times load+save")]
    for name, runs in results.items():
        seconds = [r["seconds"] for r in runs]
        peaks = [r["peak_mib"] for r in runs]
        ratio = statistics.median(s / b["seconds"] for s, b in zip(seconds, base, strict=True))
        memory = statistics.median(p / b["peak_mib"] for p, b in zip(peaks, base, strict=True))
        rows.append((name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}", f"{ratio:.2f}",
                     f"{statistics.median(peaks):.0f}", f"{memory:.2f}"))  # fmt: skip
    return rows


def _in_process(subject: str, source: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
        command = [sys.executable, "-m", "onnxgraft.tools.benchmark", subject, str(source), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OnnxgraftError(f"benchmark {subject} failed: {done.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _load_save(source: Path, folder: Path) -> None:
    import onnx

    onnx.save(onnx.load(source), folder / "model.onnx")


def _surgery(source: Path, folder: Path, checks: bool = False) -> None:
    from onnxgraft.instruments import Texts, Verify
    from onnxgraft.ir.graph import Graph
    from onnxgraft.options import CompileOptions
    from onnxgraft.passes.default import default_pipeline
    from onnxgraft.pipeline.manager import PassManager

    graph = Graph.load(source)
    instruments = [Verify(), Texts()] if checks else []
    passes = default_pipeline(CompileOptions(), "onnxruntime").passes
    PassManager(passes, instruments, fingerprints=checks).run(graph)
    graph.save(folder / "model.onnx")


def _surgery_checked(source: Path, folder: Path) -> None:
    _surgery(source, folder, checks=True)


def _engine(source: Path, folder: Path) -> None:
    from onnxgraft.targets import get

    get("tensorrt-rtx").build(source, folder / "model.engine")


def _native(source: Path, folder: Path) -> Path:
    from onnxgraft.ir.graph import Graph
    from onnxgraft.options import CompileOptions
    from onnxgraft.passes.default import default_pipeline
    from onnxgraft.pipeline.manager import PassManager

    graph = Graph.load(source)
    PassManager(default_pipeline(CompileOptions(), "tensorrt-rtx").passes, fingerprints=False).run(graph)
    graph.save(folder / "native.onnx")
    return folder / "native.onnx"


def latency(run: Path, repeat: int = 5, progress: Callable[[str], None] = lambda _: None) -> Rows:
    """A table: milliseconds of a build (in the engine, or in ONNX Runtime where it cannot run) and of its export."""
    from onnxgraft.driver.plan import check_images
    from onnxgraft.files import CACHE
    from onnxgraft.golden import catalog
    from onnxgraft.runtime.session import Session
    from onnxgraft.targets import OrtRunner

    session = Session(run)
    model = session.manifest["source"]["model"]
    (image,) = check_images(model, [], session.canvas)
    feeds = session.feeds([session.place(image)])
    export = OrtRunner(catalog.resolve(model, CACHE))
    spec = session.manifest["spec"]["image"]
    fits = (spec["height"], spec["width"]) == session.canvas
    chw = image.transpose(2, 0, 1).astype(np.float32)
    subjects: dict[str, Callable[[], Any]] = {f"build in {_runtime(session)}": lambda: session.run_feeds(feeds)}
    if fits and session.batch == 1:
        subjects["export in ONNX Runtime"] = lambda: export({spec["input_tensor"]: chw})
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for round_ in range(repeat + 1):  # the first round warms up
        for name, run_once in subjects.items():
            progress(f"{name}, {round_} of {repeat}")
            started = time.perf_counter()
            run_once()
            if round_:
                times[name].append((time.perf_counter() - started) * 1000)
    rows: Rows = [("what", "ms (median)", "fastest", "slowest")]
    rows += [(n, f"{statistics.median(t):.1f}", f"{min(t):.1f}", f"{max(t):.1f}") for n, t in times.items()]
    if len(times) == 2:
        ours, theirs = times.values()
        rows.append(
            ("build / export", f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}", "", "")
        )
    return rows


def peak_mib() -> float:
    """The most memory that this process held so far, in MiB; 0 where the system does not tell.

    getrusage would do, but Linux starts a process with its parent's peak.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found.group(1)) / 1024 if found else 0.0


def _runtime(session: Session) -> str:
    return "its engine" if session.manifest.get("engine") and not session.notice else "ONNX Runtime"


def _main(subject: str, source: Path, folder: Path) -> None:
    work = globals()[f"_{subject}"]
    if subject == "engine":
        source = _native(source, folder)
    elif subject.startswith("surgery"):
        import onnxgraft.instruments
        import onnxgraft.options  # noqa: F401  (imports are not what is measured)
        from onnxgraft.targets import get

        get("onnxruntime")
    else:
        import onnx  # noqa: F401
    started = time.perf_counter()
    work(source, folder)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
