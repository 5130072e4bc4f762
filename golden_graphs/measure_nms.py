"""What every EfficientNMS_TRT of the golden graphs costs on a GPU, counted by the plugin's own steps.

    python -m golden_graphs.measure_nms [--names mask_rcnn retinanet]

The plugin sorts what passes the threshold (everything, where that is below 0.007), then takes one block of the GPU for each
image of its batch: a step for each candidate until the rows are full, a barrier within, and for each survivor a test of its
overlap with all candidates behind it (TensorRT OSS 11.1, plugin/efficientNMSPlugin). Inputs are those of a golden graph's own
picture at its own size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from golden_graphs.zoo import checking
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, pictures, references
from onnxgraft.ir.graph import PLUGIN_DOMAIN, Graph
from onnxgraft.plugins.efficient_nms import CAP, score_limit

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Cost:
    """Of one node. blocks: of the GPU at work. sorted_: elements in all. steps, tests: of the block that has most, in which
    every step waits for all threads, and a test is one pair of boxes."""

    blocks: int
    sorted_: int
    steps: int
    tests: int


def cost(boxes: Array, scores: Array, attrs: Mapping[str, Any]) -> Cost:
    """Of boxes [B, N, 4], [B, N, 1, 4] or [B, N, C, 4] and scores [B, N, C]."""
    batch, count, classes = scores.shape
    limit, dense = score_limit(attrs["score_threshold"], attrs["score_activation"])
    each = boxes.reshape(batch, count, -1, 4)
    table = np.broadcast_to(each, (batch, count, classes, 4)).reshape(batch, -1, 4)
    flat = scores.reshape(batch, -1)
    entering = [np.arange(flat.shape[1]) if dense else np.nonzero(row >= limit)[0] for row in flat]
    steps, tests = [0], [0]
    for image, chosen in enumerate(entering):
        order = chosen[np.argsort(-flat[image, chosen], kind="stable")][:CAP]
        label = order % classes * (not attrs["class_agnostic"])
        made = _greedy(table[image, order], label, attrs["iou_threshold"], attrs["max_output_boxes"])
        steps.append(made[0])
        tests.append(made[1])
    return Cost(batch, sum(map(len, entering)), max(steps), max(tests))


def _greedy(boxes: Array, label: NDArray[np.int64], threshold: float, rows: int) -> tuple[int, int]:
    """(candidates that were looked at, pairs that were tested) until `rows` survive."""
    alive = np.ones(len(boxes), bool)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = tests = 0
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        if kept == rows:
            return i, tests
        kept += 1
        behind = np.arange(i + 1, len(boxes))
        tests += len(behind)
        side = np.minimum(boxes[i, 2:], boxes[behind, 2:]) - np.maximum(boxes[i, :2], boxes[behind, :2])
        shared = np.maximum(side, 0).prod(1)
        clash = (shared / np.maximum(area[i] + area[behind] - shared, 1e-30) >= threshold) & (label[behind] == label[i])
        alive[behind[clash]] = False
    return len(boxes), tests


def costs(name: str, folder: Path) -> list[tuple[str, str, Cost]]:
    """(node, its scores' shape, cost) of every EfficientNMS_TRT that `name` has, on its own picture."""
    image, proposals = _picture(name)
    numbers = catalog.folder(name) / "meta.json"
    path, ctx, _ = checking.compile_form(catalog.resolve(name, CACHE), "plugin", image.shape[:2], folder, numbers)
    graph = Graph.load(path)
    nodes = [n for n in graph.nodes if n.domain == PLUGIN_DOMAIN and n.op == "EfficientNMS_TRT"]
    if not nodes:
        return []
    graph.gs.outputs[:] = [*graph.gs.outputs, *(t for n in nodes for t in n.inputs if t not in graph.gs.outputs)]
    graph.save(path)
    found = checking.run(path, ctx, image, proposals)
    return [
        (n.name.split("/EfficientNMS")[0], "x".join(map(str, n.inputs[1].shape)),
         cost(found[n.inputs[0].name], found[n.inputs[1].name], n.attrs))
        for n in nodes
    ]  # fmt: skip


def _picture(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    if not name.endswith("_thin"):
        return next(references.references(name))[1], None
    meta = json.loads((catalog.folder(name) / "meta.json").read_text())
    _, height, width = meta["input"]["shape"]
    answers = np.load(catalog.folder(name) / "answers.npz")
    return pictures.blocks(meta["picture"]["seed"], (height, width)), answers.get("proposals")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="*", default=[n for n in catalog.names() if "@" not in n])
    print("| golden graph | node | scores | blocks | sorted | steps | tests |\n|---|---|---|---|---|---|---|")
    for name in parser.parse_args().names:
        with tempfile.TemporaryDirectory() as folder:
            for node, shape, made in costs(name, Path(folder)):
                print(f"| `{name}` | {node} | {shape} | {made.blocks} | {made.sorted_} | {made.steps} | {made.tests} |",
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
