"""What surgery, inference, calibration and the builder cost as something grows: the tables of docs/speed.md.

    python -m golden_graphs.measure_growth --results FILE [--files AXIS=VALUE=MODEL.onnx ...] [--engine]

Canvas and batch grow on the trained golden detector; what only another export has (a deeper backbone, more classes) comes
in files. Each figure is of a process of its own: seconds of the processor, which other work on the machine moves little, and
the peak of memory. Resumable: what the results hold is not measured again; `golden_graphs.plot_growth` draws them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from onnxgraft.atomic import scratch
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, scenes
from onnxgraft.instruments import Verify
from onnxgraft.instruments.stage import feeder
from onnxgraft.ir.graph import Graph
from onnxgraft.options import BuilderOptions, CompileOptions, Options, Size
from onnxgraft.passes.default import default_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.quantization.calibrate import prepare
from onnxgraft.quantization.collect import collect
from onnxgraft.quantization.dataset import Picture
from onnxgraft.targets import OrtRunner
from onnxgraft.targets.trt.builder import build as build_engine
from onnxgraft.targets.trt.dialect import TENSORRT_RTX
from onnxgraft.tools.benchmark.process import measure

Work = Callable[[], dict[str, float]]
MODEL = "mask_rcnn"
CANVASES = (320, 640, 960, 1344, 1664, 2048)
BATCHES = (1, 2, 4, 8, 16)
SIDE, BATCH_SIDE, FILE_SIDE = 1344, 640, 640  # of the canvas that does not grow
RUNS = 3
UNITS = {"canvas": "megapixels", "batch": "pictures", "model": "million weights", "classes": "classes"}


def points(files: list[str]) -> list[tuple[str, float, str, int, int]]:
    """(axis, value, model, side of the canvas, batch) of every point that is measured."""
    found = [("canvas", side * side / 1e6, MODEL, side, 1) for side in CANVASES]
    found += [("batch", float(batch), MODEL, BATCH_SIDE, batch) for batch in BATCHES]
    for words in files:
        axis, value, model = words.split("=", 2)
        found.append((axis, float(value), model, FILE_SIDE, 1))
    return found


def _compiled(model: str, side: str, batch: str, target: str, checks: bool) -> tuple[Graph, Context]:
    graph, ctx = Graph.load(catalog.resolve(model, CACHE)), Context(held=not checks)
    options = CompileOptions(size=Size(int(side), int(side)), batch=int(batch))
    PassManager(default_pipeline(options, target).passes, [Verify()] if checks else [], fingerprints=checks).run(graph, ctx)
    return graph, ctx


def _timed(work: Callable[[], Any], times: int = 1, each: int = 1) -> Work:
    def timed() -> dict[str, float]:
        started = time.process_time()
        for _ in range(times):
            work()
        return {"seconds": (time.process_time() - started) / times / each}

    return timed


def surgery(model: str, side: str, batch: str) -> Work:
    """From the file to the plugin graph, parts held and the graph verified after each pass."""
    return _timed(lambda: _compiled(model, side, batch, "onnxruntime", checks=True))


def inference(model: str, side: str, batch: str) -> Work:
    """A picture of a batch, after a first one."""
    graph, ctx = _compiled(model, side, batch, "onnxruntime", checks=False)
    feed = feeder(graph, ctx)([scenes.draw(scenes.EVALUATION + n, (int(side), int(side)))[0] for n in range(int(batch))])
    with scratch() as folder:
        graph.save(folder / "model.onnx")
        runner = OrtRunner(folder / "model.onnx")
        runner(feed)
    return _timed(lambda: runner(feed), RUNS, int(batch))


def calibration(model: str, side: str, batch: str) -> Work:
    """A picture, of all methods' statistics."""
    prepared = prepare(model, Options(size=Size(int(side), int(side))))
    drawn = [scenes.draw(scenes.EVALUATION + n, (int(side), int(side)))[0] for n in range(2)]
    fed = [Picture(f"{n}", f"{n}", lambda held=held: held) for n, held in enumerate(drawn)]  # type: ignore[misc]
    return _timed(
        lambda: collect(prepared.graph, prepared.ctx, prepared.names, prepared.key, fed, rule=prepared.rule), 1, len(fed)
    )


def engine(model: str, side: str, batch: str) -> Work:
    """The builder of TensorRT for RTX, fp32, on the native graph."""
    graph, _ = _compiled(model, side, batch, "tensorrt-rtx", checks=False)
    folder = TemporaryDirectory()
    native = Path(folder.name) / "native.onnx"
    graph.save(native)
    del graph
    return _timed(lambda: build_engine(
        TENSORRT_RTX, "tensorrt-rtx", native, Path(folder.name) / "model.engine", BuilderOptions(), {}))  # fmt: skip


WORK = {"surgery": surgery, "inference": inference, "calibration": calibration, "engine": engine}


def slope(values: list[float], figures: list[float]) -> float:
    """The power of the value with which a figure grows between the last two points: 1 is linear."""
    return math.log(figures[-1] / figures[-2]) / math.log(values[-1] / values[-2])


def tables(held: dict[str, dict[str, float]]) -> str:
    """Markdown: a table for each axis, seconds and MiB of each kind of work."""
    text = []
    for axis, rows in by_axis(held).items():
        kinds = [kind for kind in WORK if all(kind in row for row in rows.values())]
        heads = [head for kind in kinds for head in (f"{kind} s", "MiB")]
        text.append(f"| {UNITS[axis]} | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
        for value, row in rows.items():
            cells = [f"{row[kind]['seconds']:.2f} | {row[kind]['mib']:.0f}" for kind in kinds]
            text.append(f"| {value:.3g} | {' | '.join(cells)} |")
        last = [f"{slope(list(rows), [row[kind]['seconds'] for row in rows.values()]):.2f} | "
                f"{slope(list(rows), [row[kind]['mib'] for row in rows.values()]):.2f}" for kind in kinds]  # fmt: skip
        text.append(f"| power, last two | {' | '.join(last)} |\n")
    return "\n".join(text)


def by_axis(held: dict[str, Any]) -> dict[str, dict[float, dict[str, dict[str, float]]]]:
    found: dict[str, dict[float, dict[str, dict[str, float]]]] = {}
    for key, figures in held.items():
        axis, value, kind = key.split(" ")
        found.setdefault(axis, {}).setdefault(float(value), {})[kind] = figures
    return {axis: dict(sorted(rows.items())) for axis, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON; what it holds is not measured again")
    parser.add_argument("--files", nargs="*", default=[], metavar="AXIS=VALUE=MODEL.onnx", help="axes: model, classes")
    parser.add_argument("--engine", action="store_true", help="build engines too")
    arguments = parser.parse_args()
    held: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.is_file() else {}
    kinds = [kind for kind in WORK if arguments.engine or kind != "engine"]
    for (axis, value, model, side, batch), kind in itertools.product(points(arguments.files), kinds):
        key = f"{axis} {value} {kind}"
        if key in held or (kind == "calibration" and axis == "batch"):  # which takes one picture at a time
            continue
        found = measure(f"golden_graphs.measure_growth:{kind}", model, side, batch)
        held[key] = {**found.result, "mib": found.peak_mib}
        arguments.results.write_text(json.dumps(held, indent=1))
        print(f"{key}: {held[key]['seconds']:.2f} s, {held[key]['mib']:.0f} MiB", flush=True)
    print(tables(held))


if __name__ == "__main__":
    main()
