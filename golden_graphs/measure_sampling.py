"""The table of docs/targets.md: what each way of sampling RoIAlign costs and gives, on the trained golden detector.

    python -m golden_graphs.measure_sampling [--scenes 24]

Strict match and AP are against PyTorch's stored detections and the drawn ground truth; memory is the peak of a process
above what it held before its first inference, and milliseconds are the median, both in ONNX Runtime on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnxgraft.evaluation.coco import evaluate
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, scenes
from onnxgraft.instruments.stage import feeder
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.targets import OrtRunner
from onnxgraft.tools.benchmark.child import peak_mib

FORMS = {
    "plugin functions": ("onnxruntime", "exact"),
    "native, exact": ("tensorrt-rtx", "exact"),
    "native, masked4": ("tensorrt-rtx", "masked4"),
    "native, fixed2": ("tensorrt-rtx", "fixed2"),
}


def measure(form: str, count: int) -> dict[str, float]:
    """The row of one form, in this process."""
    target, sampling = FORMS[form]
    graph, ctx = Graph.load(catalog.resolve("mask_rcnn", CACHE)), Context()
    options = CompileOptions(roi_sampling=sampling)
    PassManager(default_pipeline(options, target).passes, fingerprints=False).run(graph, ctx)
    feeds = feeder(graph, ctx)
    with tempfile.TemporaryDirectory() as folder:
        graph.save(Path(folder) / "model.onnx")
        runner = OrtRunner(Path(folder) / "model.onnx")
    before = peak_mib()
    found: dict[int, Detections] = {}
    shares, times = [], []
    for number in range(count):
        feed = feeds([scenes.scene(number, scenes.EVALUATION)])
        started = time.perf_counter()
        outputs = runner(feed)
        times.append(time.perf_counter() - started)
        found[number] = from_outputs(outputs, ctx.io)
        reference = Detections.load(catalog.folder("mask_rcnn") / "evaluation" / f"scene_{number}.npz")
        shares.append(match(reference, found[number]).share)
    peak = peak_mib() - before
    ap = evaluate(scenes.coco(range(count)), found)
    return {
        "strict": statistics.mean(shares), "box": ap["box"]["AP"], "mask": ap["mask"]["AP"], "mib": peak,
        "ms": statistics.median(times) * 1000,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--form", choices=list(FORMS))
    arguments = parser.parse_args()
    if arguments.form:
        print(json.dumps(measure(arguments.form, arguments.scenes)))
        return
    print("| form | strict match | box AP | mask AP | peak MiB | ms |\n|---|---|---|---|---|---|")
    for form in FORMS:
        command = [
            sys.executable,
            "-m",
            "golden_graphs.measure_sampling",
            "--scenes",
            str(arguments.scenes),
            "--form",
            form,
        ]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(
            f"| {form} | {row['strict']:.4f} | {row['box']:.4f} | {row['mask']:.4f} | {row['mib']:.0f} | {row['ms']:.0f} |"
        )


if __name__ == "__main__":
    main()
