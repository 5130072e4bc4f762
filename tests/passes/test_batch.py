"""A batch of two images gives what each of them gives alone, in plugin form and in native form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.stages import SIZE, Stages, run_unordered, same

from onnxgraft.golden import scenes
from onnxgraft.passes import LowerPlugins
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.targets import OrtRunner

SEEDS = (3_000_000_500, 3_000_000_501)


def feeds(images: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {"input_tensor": np.stack([image.transpose(2, 0, 1) for image in images]).astype(np.float32)}


def test_two_images_are_twice_one(stages: Stages, tmp_path: Path) -> None:
    images = [scenes.draw(seed, SIZE)[0] for seed in SEEDS]
    alone_graph, alone = stages.after_pass("name-outputs")
    alone_graph.save(tmp_path / "alone.onnx")
    one = OrtRunner(tmp_path / "alone.onnx")
    singles = [from_outputs(one(feeds([image])), alone.io) for image in images]
    assert min(map(len, singles)) > 5
    assert same(*singles) is not None
    graph, ctx, _ = stages.go_on("fix-input", f"fix-input{{height={SIZE[0]},width={SIZE[1]},batch=2}}")
    assert [t.shape[0] for t in (*graph.gs.inputs, *graph.gs.outputs)] == [2] * 6
    for target in ("onnxruntime", "tensorrt-rtx"):
        run_unordered([LowerPlugins(target=target)], graph, ctx)
        graph.save(tmp_path / "two.onnx")
        together = OrtRunner(tmp_path / "two.onnx")(feeds(images))
        for index, single in enumerate(singles):
            found = from_outputs(together, ctx.io, index)
            assert same(single, found, px=2e-3, score=2e-5, mask=1e-3) is None, (target, index)
