"""Store a detector that `train_shapes` trained: its export, PyTorch's answers on scenes, and a description. Needs detectron2.

    python -m golden_graphs.make.trained retinanet --weights retinanet.pth
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import tempfile
from pathlib import Path
from typing import Any

import torch

from golden_graphs.make import answers, exporting
from golden_graphs.make import training as train_shapes
from golden_graphs.make.mask_rcnn import EVALUATION_SCENES, coarser, save_detections
from onnxgraft.frontends.detectron2 import config_numbers, families, tracing
from onnxgraft.golden import catalog, scenes
from onnxgraft.golden.weights import PACKED

SCENES = 2
FILE = "model.onnx"
# Weights are float32 whose lower half is zero: values of four bytes, the upper two of which tell something.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 2, "pb": 2}]


def remake(name: str, weights: Path, home: Path) -> None:
    """Write the folder of one trained detector."""
    source = train_shapes.RECIPES[name].source()
    source.model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    model = source.model.eval()
    train_shapes.fold(model)
    image, family = scenes.scene(0), families.family_of(model)
    opset = tracing.smallest_opset(model)
    exported = tracing.export(model, image, opset, None, family)
    home.mkdir(parents=True, exist_ok=True)
    packed = lzma.compress(exported.SerializeToString(deterministic=True), filters=FILTERS)
    (home / f"{FILE}{PACKED}").write_bytes(packed)
    for index in range(SCENES):
        save_detections(home / "reference" / f"scene_{index}.npz", answers.answers(model, scenes.scene(index)))
    for index in range(EVALUATION_SCENES):
        found = answers.answers(model, scenes.scene(index, scenes.EVALUATION))
        save_detections(home / "evaluation" / f"scene_{index}.npz", coarser(found))
    with tempfile.TemporaryDirectory() as folder:
        digest = hashlib.sha256(catalog.materialise(home, FILE, Path(folder)).read_bytes()).hexdigest()
    meta: dict[str, Any] = {
        "family": family.name,
        "from": train_shapes.RECIPES[name].config,
        "trained": {"iterations": train_shapes.RECIPES[name].iterations, "batch": train_shapes.BATCH},
        "input": {"shape": [3, *image.shape[:2]], "dtype": "float32", "range": [0, 255], "layout": "CHW"},
        "opset": {FILE: opset},
        "class_names": scenes.CLASSES,
        "config": config_numbers.sidecar(source, image.shape[:2])["config"],
        "complete_sha256": {FILE: digest},
    }
    exporting.write_meta(home, meta)


def main() -> None:
    parser = argparse.ArgumentParser(description="Store a trained detector of shapes as a golden graph.")
    parser.add_argument("name", choices=train_shapes.RECIPES)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of the golden graphs")
    args = parser.parse_args()
    remake(args.name, args.weights, args.output / args.name)


if __name__ == "__main__":
    main()
