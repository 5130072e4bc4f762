"""Calibration as a command: from a model and pictures to a file of statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxgraft.analysis.qdq_placement import find_sites
from onnxgraft.analysis.regions import find_regions
from onnxgraft.errors import InputError
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, sidecars
from onnxgraft.ir.bounds import Bounds
from onnxgraft.ir.graph import Graph
from onnxgraft.options import Options
from onnxgraft.passes.default import default_pipeline
from onnxgraft.passes.quantize import refuse_quantized
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.manager import PassManager
from onnxgraft.quantization import dataset as picture_sets
from onnxgraft.quantization import methods, trt_cache
from onnxgraft.quantization.calibration import Calibration, Key, group_ranges, key_of
from onnxgraft.quantization.collect import Progress, collect
from onnxgraft.quantization.dataset import Picture
from onnxgraft.runtime.images import ResizeRule


@dataclass
class Prepared:
    """A graph as calibration wants it: compiled up to its named outputs, all in fp32."""

    graph: Graph
    ctx: Context
    groups: list[list[str]]
    key: Key
    rule: ResizeRule

    @property
    def names(self) -> list[str]:
        """The tensors to measure."""
        return sorted(name for group in self.groups for name in group)


def prepare(model: str, options: Options | None = None) -> Prepared:
    """Compile `model` up to where precision is chosen. Raises what `compile` raises."""
    source = catalog.resolve(model, CACHE)
    options = options or Options()
    beside = sidecars.find(model, source, options.sidecar)
    graph, ctx = Graph.load(source, Bounds.times(options.bounds)), Context(channel_order=beside.channel_order)
    rule = ResizeRule(*beside.edges)
    steps = default_pipeline(options, "onnxruntime").stop_after("name-outputs").passes
    PassManager(steps, fingerprints=False).run(graph, ctx)
    refuse_quantized(graph)
    groups = find_sites(graph, find_regions(graph, ctx), set()).groups()
    return Prepared(graph, ctx, groups, key_of(graph, ctx, sorted(n for g in groups for n in g), rule), rule)


def calibrate(
    model: str,
    output: Path,
    images: Path | None = None,
    limit: int | None = None,
    options: Options | None = None,
    shard: str | None = None,
    progress: Progress = lambda done, total, name: None,
) -> tuple[Calibration, str]:
    """Measure a model's activations and write them to `output`; an interrupted run goes on from `output`.part.

    Args:
        model: an .onnx file, or the name of a golden graph.
        output: the calibration file; one that fits is used again.
        images: folder of pictures; a golden graph draws its own without it.
        limit: at most so many pictures.
        options: of the passes before precision is chosen, such as the size of the canvas.
        shard: "i/n", to measure every n-th picture only; merge_files puts the parts together.
        progress: called with (pictures done, pictures in all, name of the next).

    Returns:
        The calibration, and a sentence on what was done.

    Raises:
        InputError: `output` holds something that does not fit, with the reason.
    """
    prepared = prepare(model, options)
    pictures = _pictures(model, images, limit)
    if shard:
        pictures = picture_sets.shard(pictures, shard)
    if output.exists():
        return _used_again(output, prepared, pictures), "used again: same network, preprocessing and images"
    state = output.with_name(output.name + ".part")
    calibration = collect(prepared.graph, prepared.ctx, prepared.names, prepared.key, pictures, state, progress, prepared.rule)
    calibration.save(output)
    return calibration, f"{len(calibration.pictures)} images measured"


def _pictures(model: str, images: Path | None, limit: int | None) -> list[Picture]:
    if images is not None:
        return picture_sets.folder(images, limit)
    if model not in catalog.names():
        raise InputError("give the calibration images: --images DIR (about 100 pictures like those the model will see)")
    return picture_sets.drawn(limit or picture_sets.SCENES)


def _used_again(output: Path, prepared: Prepared, pictures: list[Picture]) -> Calibration:
    held = Calibration.load(output)
    reason = held.unusable(prepared.key, prepared.names, [(p.name, p.digest) for p in pictures])
    if reason is not None:
        raise InputError(f"{output}: cannot be used again: {reason}; remove it or give another -o")
    return held


def write_tensorrt_cache(calibration: Calibration, path: Path, method: str, percentile: float = methods.PERCENTILE) -> None:
    """The scales as TensorRT's calibration cache. Raises InputError."""
    names = sorted(calibration.tensors)
    trt_cache.write(group_ranges(calibration, [[name] for name in names], method, percentile), path)
