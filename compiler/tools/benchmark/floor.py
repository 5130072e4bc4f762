"""The least time that a compiled graph takes on named GPUs, part by part: where its milliseconds must go."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from onnxgraft.analysis.regions import find_regions
from onnxgraft.atomic import scratch
from onnxgraft.driver.plan import check_images
from onnxgraft.errors import InputError
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog
from onnxgraft.instruments.stage import feeder
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import Manifest
from onnxgraft.passes.default import parse_pipeline
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import LOWERED
from onnxgraft.pipeline.instrument import Instrument
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.plugins import REGISTRY
from onnxgraft.quantization.ranges import Provider
from onnxgraft.tools.benchmark.costs import Cost, costs
from onnxgraft.tools.benchmark.gpus import GPUS, Gpu
from onnxgraft.tools.benchmark.process import Rows

_TYPES = ("fp32", "fp16", "int8")
_PARTS = {"nms": "NMS", "roi-align": "pooling", "deform-conv": "deformable"}  # by the plugin's group
_REST = "selection"
_ORDER = (
    "backbone", "fpn", "deformable", "rpn", "dense-head", _REST, "NMS", "pooling", "box-head", "mask-head", "keypoint-head",
    "semantic-head",
)  # fmt: skip


class _Parts(Instrument):
    """Which part each node is of, before plugins become what the target takes."""

    def __init__(self) -> None:
        self.network: dict[str, str] = {}
        self.plugins: dict[str, str] = {}

    def before(self, step: Pass, graph: Graph, ctx: Context) -> None:
        if LOWERED not in step.provides or ctx.detector is None:
            return
        self.network = dict(find_regions(graph, ctx).of)
        groups = {node.name: REGISTRY[node.op].group for node in graph.nodes if node.op in REGISTRY}
        self.plugins = {name: _PARTS.get(str(group), "NMS") for name, group in groups.items()}

    def of(self, node: str, graph: Graph) -> str:
        """The part of a node of the finished graph, or of a body that came from a plugin."""
        origin = graph.origins.get(node)
        for name in (node, *(origin.sources if origin is not None else ())):
            found = self.network.get(name) or self.plugins.get(name)
            if found is not None:
                return found
        return next((part for plugin, part in self.plugins.items() if node.startswith(f"{plugin}/")), _REST)


@dataclass(frozen=True)
class Floor:
    """Of a build.

    Attributes:
        parts: the costs of each part, in the order in which they run.
        trips: how often bodies of loops ran on the picture, by part.
        counted: whether they were counted; once each otherwise.
    """

    parts: Mapping[str, list[Cost]]
    trips: Mapping[str, int]
    counted: bool

    def seconds(self, gpu: Gpu, part: str) -> float:
        return sum(gpu.seconds(cost.type, cost.macs, cost.size) for cost in self.parts[part])

    def weighted(self, gpu: Gpu) -> float:
        """Seconds of the layers with weights alone."""
        every = (cost for part in self.parts.values() for cost in part)
        return sum(gpu.seconds(cost.type, cost.macs, cost.size) for cost in every if cost.weighted)


def floor(run: Path, progress: Callable[[str], None] = lambda _: None) -> tuple[Rows, Rows, Floor]:
    """Two tables: what each part computes and moves, and the least milliseconds of each on every GPU of `gpus.GPUS`.

    Raises InputError: not a build folder, or its pipeline recognised no detector.
    """
    found = floor_of(run, progress)
    what: Rows = [("part", "layers", *(f"GMAC {kind}" for kind in _TYPES), "MiB", "loop trips")]
    for part, held in found.parts.items():
        macs = [sum(c.macs for c in held if c.type == kind) / 1e9 for kind in _TYPES]
        layers = sum(c.weighted for c in held)
        moved, trips = sum(c.size for c in held) / 2**20, found.trips.get(part, 0)
        shown = str(trips) if found.counted or not trips else "not counted"
        what.append((part, str(layers), *(f"{m:.1f}" if m else "" for m in macs), f"{moved:.1f}", shown if trips else ""))
    times: Rows = [("least ms on", *found.parts, "all", "layers' share")]
    for gpu in GPUS:
        each = [found.seconds(gpu, part) * 1000 for part in found.parts]
        share = found.weighted(gpu) * 1000 / sum(each)
        times.append((gpu.name, *(f"{ms:.3f}" for ms in each), f"{sum(each):.2f}", f"{share:.0%}"))
    return what, times, found


def floor_of(run: Path, progress: Callable[[str], None] = lambda _: None) -> Floor:
    """See `floor`."""
    manifest = Manifest.read(run)
    progress("compiling again, in memory")
    source, measured = catalog.resolve(manifest.source.model, CACHE), run / "calibration.json"
    graph = Graph.load(source)
    ctx = Context(range_source=Provider(manifest.source.model, CACHE, measured if measured.is_file() else None))
    parts = _Parts()
    PassManager(parse_pipeline(manifest.pipeline).passes, [parts], fingerprints=False).run(graph, ctx)
    if not parts.network:
        raise InputError(f"{run}: its pipeline does not hand a recognised detector to a target, so there are no parts to tell")
    progress("counting the trips of loops")
    whole, times, counted = _with_trips(graph, ctx, manifest.source.model)
    made: dict[str, list[Cost]] = defaultdict(list)
    for cost in costs(whole, set(parts.network), times):
        made[parts.of(cost.node, graph)].append(cost)
    trips: Counter[str] = Counter()
    for name, number in times.items():
        trips[parts.of(name, graph)] += number
    order = [part for part in _ORDER if part in made] + [part for part in made if part not in _ORDER]
    return Floor({part: made[part] for part in order}, trips, counted)


def _with_trips(graph: Graph, ctx: Context, model: str) -> tuple[gs.Graph, dict[str, int], bool]:
    """(the graph with the shapes of bodies, how often the body of each Loop runs, whether that was counted)."""
    with scratch() as folder:
        path = folder / "model.onnx"
        graph.save(path)
        shaped = folder / "shaped.onnx"
        onnx.shape_inference.infer_shapes_path(str(path), str(shaped))
        whole = gs.import_onnx(onnx.load(shaped, load_external_data=False))
        bodies = dict(_bodies(whole))
        if not bodies:
            return whole, {}, True
        image = ctx.spec().image
        pictures = check_images(model, [], (image.height, image.width))[:1] * ctx.batch
        try:
            ran = _executions(path, feeder(graph, ctx)(pictures), folder)
        except Exception:  # ONNX Runtime's classes share no base below Exception; a typed graph may have no kernels there
            return whole, dict.fromkeys(bodies, 1), False
        return whole, {name: max(ran[node] for node in nodes) for name, nodes in bodies.items()}, True


def _bodies(graph: gs.Graph) -> list[tuple[str, list[str]]]:
    """(name of a Loop, names of its body's nodes) of every Loop, inner ones included."""
    found = []
    for node in graph.nodes:
        for body in node.attrs.values():
            if isinstance(body, gs.Graph):
                found += [(node.name, [inner.name for inner in body.nodes]), *_bodies(body)]
    return found


def _executions(path: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> Counter[str]:
    """How often ONNX Runtime ran each node, by name."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    session.run(None, dict(feeds))
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    end = "_kernel_time"
    return Counter(event["name"].removesuffix(end) for event in events if event["name"].endswith(end))
