"""The layers that TensorRT's builder makes of a build's graph: how many of each kind, what was fused, what they move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from onnxgraft import targets
from onnxgraft.atomic import scratch
from onnxgraft.errors import InputError
from onnxgraft.manifest import Manifest
from onnxgraft.targets.engine_info import LayerInfo
from onnxgraft.tools.benchmark.process import Rows


def layers(run: Path, progress: Callable[[str], None] = lambda _: None) -> Rows:
    """A table of `counted`: the builder's own list of layers, of an engine that is built anew from the run's model.

    Raises:
        InputError: not a build folder, or its target does not list layers.
        TargetError: the engine cannot be built here.
    """
    manifest = Manifest.read(run)
    progress("building the engine again")
    with scratch() as folder:
        info = targets.get(manifest.target).build(run / manifest.model, folder / "model.engine")
    if not info.layers:
        raise InputError(f"{run}: {'; '.join(info.notes)}")
    return counted(info.layers)


def counted(found: Iterable[LayerInfo]) -> Rows:
    """A row for each kind of layer with the types that it reads and writes first, those that move most first.

    MiB are those of whole tensors: a layer in a loop counts once, and with all of the table that it gathers from.
    """
    kinds: dict[tuple[str, str, str], list[LayerInfo]] = defaultdict(list)
    for layer in found:
        reads, writes = (next(iter(types), "") for types in (layer.input_types, layer.output_types))
        kinds[layer.kind, reads, writes].append(layer)
    rows: Rows = [("layer", "reads", "writes", "layers", "ONNX nodes in them", "MiB read", "MiB written")]
    for key, held in sorted(kinds.items(), key=lambda item: (-_moved(item[1]), item[0])):
        rows.append((*key, *_figures(held)))
    return [*rows, ("all", "", "", *_figures([layer for held in kinds.values() for layer in held]))]


def _moved(held: Iterable[LayerInfo]) -> int:
    return sum(layer.read_bytes + layer.written_bytes for layer in held)


def _figures(held: list[LayerInfo]) -> tuple[str, ...]:
    read, written = sum(la.read_bytes for la in held), sum(la.written_bytes for la in held)
    nodes = sum(len(la.onnx_nodes) for la in held)
    return str(len(held)), str(nodes), f"{read / 2**20:.1f}", f"{written / 2**20:.1f}"
