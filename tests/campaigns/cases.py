"""What a campaign of files attacks: for each kind, sound files to start from, how they are changed, and who reads them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from helpers.small_models import MODEL

from campaigns import mutate
from onnxgraft import CompileOptions, Graph, Options, Size, compile
from onnxgraft.detector import sidecar
from onnxgraft.evaluation.instances import read_instances
from onnxgraft.files import plain
from onnxgraft.golden import catalog, scenes
from onnxgraft.instruments import Verify
from onnxgraft.ir.printer import text
from onnxgraft.manifest import GraphIO, ImageIO, Manifest, Preprocess, Source, Times
from onnxgraft.passes.default import default_pipeline, parse_pipeline
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.quantization import trt_cache
from onnxgraft.quantization.calibration import Calibration, Key, group_ranges
from onnxgraft.quantization.histogram import Histogram
from onnxgraft.report.html import page
from onnxgraft.report.reader import read_run
from onnxgraft.runtime import proposals
from onnxgraft.runtime.images import read_image
from onnxgraft.runtime.session import Session
from onnxgraft.tools.inspect import inspect

BYTES = Path(__file__).resolve().parents[1] / "data" / "bytes"
EVALUATED = b'{"rows": {"it": {"box": {"AP": 0.5}, "mask": {"AP": 0.25}}}, "images": 2, "what": "the build"}'
TRT_CACHE = b"TRT-8501-EntropyCalibration2\nx: 3c010a14\ny_1: 3d000000\n"
DETECTORS = ("fast_rcnn_thin", "semantic_fpn_thin@opset11", "rpn_C4_thin@opset11", "keypoint_rcnn_thin")  # quick, of many parts
Mutation = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Kind:
    """One sort of file.

    Attributes:
        seeds: sound files to start from.
        change: makes one of them hostile.
        read: takes the changed file, in a folder of its own, the way the product does.
        name: how the file is called in that folder.
    """

    seeds: tuple[bytes, ...]
    change: Mutation
    read: Callable[[Path], object]
    name: str


def kinds(folder: Path) -> Mapping[str, Kind]:
    """All kinds; `folder` holds what their readers need beside the file."""
    small = onnx.parser.parse_model(MODEL)
    onnx.save(small, folder / "small.onnx")
    run = compile(folder / "small.onnx", folder / "run", Options(passes="upgrade-opset,simplify", target="onnxruntime")).folder
    models = tuple(path.read_bytes() for path in sorted(BYTES.glob("*.onnx"))) + (small.SerializeToString(),) * 10
    io = GraphIO(ImageIO("x", (1, 3, 64, 96)), True, None, {"num_detections": (1, 1), "detection_boxes": (1, 9, 4)})
    manifest = Manifest(runnable="model.onnx", io=io, preprocess=Preprocess(), source=Source("m.onnx"), spec={"family": "x"})
    order = json.dumps(plain(manifest)).encode(), (run / "manifest.json").read_bytes()
    meta = (catalog.folder("mask_rcnn") / "meta.json").read_bytes()
    coco = json.dumps({k: v[:4] for k, v in scenes.coco(range(1)).items()}).encode()
    boxes = json.dumps([{"file": "a.png", "boxes": [[0, 0, 5, 5], [1.5, 2, 3, 4]]}]).encode()
    report, times = (run / "report.json").read_bytes(), (run / "times.json").read_bytes()
    nodes = (run / "passes" / "nodes.json").read_bytes()
    return {
        "model": Kind(models, mutate.bytes_of, _read_model, "m.onnx"),
        "structure": Kind(models, mutate.model_of, _read_model, "m.onnx"),
        "detector": Kind(_detectors(folder), mutate.model_of, _compile, "m.onnx"),
        "sidecar": Kind((meta,), mutate.json_of, _read_sidecar, "s.json"),
        "manifest": Kind(order, mutate.json_of, _beside(run, _read_session), "manifest.json"),
        "page": Kind(order[1:], mutate.json_of, _beside(run, _read_report), "manifest.json"),
        "evaluation": Kind((EVALUATED,), mutate.json_of, _beside(run, _read_report), "evaluation.json"),
        "report": Kind((report,), mutate.json_of, _beside(run, _read_report), "report.json"),
        "times": Kind((times,), mutate.json_of, _beside(run, _read_report), "times.json"),
        "nodes": Kind((nodes,), mutate.json_of, _beside(run, _read_report), "passes/nodes.json"),
        "calibration": Kind((_calibration(folder),), mutate.json_of, _read_calibration, "c.json"),
        "cache": Kind((TRT_CACHE,), mutate.bytes_of, trt_cache.read, "c.cache"),
        "annotations": Kind((coco,), mutate.json_of, read_instances, "a.json"),
        "proposals": Kind((boxes,), mutate.json_of, _read_proposals, "p.json"),
        "image": Kind(_images(), mutate.bytes_of, read_image, "i.bin"),
    }


def _read_model(path: Path) -> None:
    """As build does: the passes that take any graph with what observes them, and recognition."""
    graph, steps = Graph.load(path), parse_pipeline("upgrade-opset,simplify").passes
    PassManager(steps, [Verify()]).run(graph, Context())
    text(graph)
    inspect(path)


def _detectors(folder: Path) -> tuple[bytes, ...]:
    return tuple(catalog.resolve(name, folder / "cache").read_bytes() for name in DETECTORS)


def _compile(path: Path) -> None:
    """As build does at a small size: recognition and all passes."""
    graph, options = Graph.load(path), CompileOptions(size=Size(64, 96))
    PassManager(default_pipeline(options, "onnxruntime").passes, fingerprints=False).run(graph, Context())


def _read_sidecar(path: Path) -> None:
    held = sidecar.read(path)
    held.check(_spec())
    _ = held.edges, held.panoptic, held.channel_order


_SPECS: list[object] = []


def _spec():  # type: ignore[no-untyped-def]
    if not _SPECS:
        _SPECS.append(inspect(catalog.ROOT / "mask_rcnn" / "model.onnx")[0])
    return _SPECS[0]


def _beside(run: Path, read: Callable[[Path], object]) -> Callable[[Path], object]:
    """The reader gets a build folder in which the changed file has taken its place."""

    def reader(path: Path) -> None:
        folder = path.parent.parent if path.parent.name == "passes" else path.parent
        for held in run.rglob("*"):
            place = folder / held.relative_to(run)
            if held.is_file() and not place.exists():
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(held, place)
        read(folder)

    return reader


def _read_session(folder: Path) -> None:
    session = Session(folder)
    session.feeds([session.place(np.zeros((48, 64, 3), np.uint8))])
    read_run(folder)


def _read_report(folder: Path) -> None:
    page(read_run(folder))
    Times.read(folder)


def _calibration(folder: Path) -> bytes:
    histogram = Histogram()
    histogram.add(np.linspace(-2, 3, 999, dtype=np.float32))
    Calibration(Key("ab", {"canvas": [64, 96]}), [("a.png", "1")], [], {"x": histogram}).save(folder / "c.json")
    return (folder / "c.json").read_bytes()


def _read_calibration(path: Path) -> None:
    held = Calibration.load(path)
    held.unusable(Key("ab", {"canvas": [64, 96]}), ["x"], [("a.png", "1")])
    group_ranges(held, [list(held.tensors)], "mse", 99.9)


def _read_proposals(path: Path) -> None:
    proposals.read(path)(Path("a.png"), (10, 10))


def _images() -> tuple[bytes, ...]:
    picture = scenes.draw(1, (48, 64))[0]
    return tuple(cv2.imencode(kind, picture)[1].tobytes() for kind in (".png", ".jpg", ".bmp", ".webp", ".tiff"))
