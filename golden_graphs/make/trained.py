"""Store a detector that `train_shapes` trained: its export, PyTorch's answers on scenes, and a description. Needs detectron2.

    python -m golden_graphs.make.trained retinanet --weights retinanet.pth
    python -m golden_graphs.make.trained retinanet    # only the answers, of the stored export's weights
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

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
    store_answers(model, home)
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


def store_answers(model: nn.Module, home: Path) -> None:
    """Write PyTorch's answers on the golden scenes and on those that judge it."""
    for index in range(SCENES):
        save_detections(home / "reference" / f"scene_{index}.npz", answers.answers(model, scenes.scene(index)))
    for index in range(EVALUATION_SCENES):
        found = answers.answers(model, scenes.scene(index, scenes.EVALUATION))
        save_detections(home / "evaluation" / f"scene_{index}.npz", coarser(found))


def stored_model(name: str, home: Path) -> nn.Module:
    """The folded model of one trained detector, with the weights of its stored export."""
    model = train_shapes.RECIPES[name].source().model.eval()
    train_shapes.fold(model)
    with tempfile.TemporaryDirectory() as folder:
        graph = onnx.load(catalog.materialise(home, FILE, Path(folder))).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for key, parameter in model.named_parameters():
        parameter.data = torch.from_numpy(held[f"model.{key}"].copy())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Store a trained detector of shapes as a golden graph.")
    parser.add_argument("name", choices=train_shapes.RECIPES)
    parser.add_argument("--weights", type=Path, help="state dict; without it the export stays, and only answers are renewed")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="folder of the golden graphs")
    args = parser.parse_args()
    home = args.output / args.name
    if args.weights is None:
        store_answers(stored_model(args.name, home), home)
    else:
        remake(args.name, args.weights, home)


if __name__ == "__main__":
    main()
