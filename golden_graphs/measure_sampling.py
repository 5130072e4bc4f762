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

import numpy as np

from onnxgraft.evaluation.coco import evaluate
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog
from onnxgraft.ir.graph import Graph
from onnxgraft.options import CompileOptions
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections, from_outputs
from onnxgraft.targets import OrtRunner
from onnxgraft.tools.benchmark import peak_mib

FORMS = {
    "plugin functions": ("onnxruntime", "exact"),
    "native, exact": ("tensorrt-rtx", "exact"),
    "native, masked4": ("tensorrt-rtx", "masked4"),
    "native, fixed2": ("tensorrt-rtx", "fixed2"),
}
IO = {"input": {"name": "input_tensor", "shape": [1, 3, 1344, 1344], "layout": "NCHW"}, "boxes": "normalized"}


def measure(form: str, scenes: int) -> dict[str, float]:
    """The row of one form, in this process."""
    target, sampling = FORMS[form]
    graph = Graph.load(catalog.resolve("mask_rcnn", CACHE))
    options = CompileOptions(roi_sampling=sampling)
    PassManager(default_pipeline(options, target).passes, fingerprints=False).run(graph)
    with tempfile.TemporaryDirectory() as folder:
        graph.save(Path(folder) / "model.onnx")
        runner = OrtRunner(Path(folder) / "model.onnx")
    before = peak_mib()
    found: dict[int, Detections] = {}
    shares, times = [], []
    for scene in range(scenes):
        image = scenes.scene(scene, scenes.EVALUATION)
        feed = {"input_tensor": image.transpose(2, 0, 1).astype(np.float32)[None]}
        started = time.perf_counter()
        outputs = runner(feed)
        times.append(time.perf_counter() - started)
        found[scene] = from_outputs(outputs, IO, 0)
        reference = Detections.load(catalog.folder("mask_rcnn") / "evaluation" / f"scene_{scene}.npz")
        shares.append(match(reference, found[scene]).share)
    peak = peak_mib() - before
    ap = evaluate(scenes.coco(range(scenes)), found)
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
