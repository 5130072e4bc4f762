"""Remake the golden graphs and their reference answers from real detectron2.

Needs torch, detectron2, onnx, onnxruntime, opencv and faster-coco-eval, with this package beside
them (`pip install --no-deps -e .`). About six minutes on two cores:

    python -m golden_graphs.make.mask_rcnn --shapes-weights model.pth --config config.yaml

With `--answers` the graphs and weights stay as they are, and only what rests on the scenes is made anew: half of the time.
The calibration is `onnxgraft calibrate mask_rcnn --limit 100 -o golden_graphs/mask_rcnn/calibration.json`.

The thin members of the other families are remade by `python -m golden_graphs.make.thin_members`, the trained RetinaNet and
Cascade Mask R-CNN by `python -m golden_graphs.make.training` and `python -m golden_graphs.make.trained`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import detectron2
import numpy as np
import onnx
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from golden_graphs.make import exporting
from golden_graphs.make import full_width as zoo
from onnxgraft.golden import catalog, scenes
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.detections import Detections

SCENES = 6
PICTURES = 2  # scenes that are committed as images; lossless they would be 4 MB each
EVALUATION_SCENES = 24
OTHER, OTHER_SEED = (480, 640), scenes.GOLDEN + 500
OPSETS = {"model.onnx": 16, "model_opset11.onnx": 11}
LISTED = ("model*", "weights.json", "reference/*", "evaluation/*", "images/*")  # what is made here, with digests in meta.json
SMALLEST_SHARED = 1024  # bytes; smaller tensors are not worth a reference into another file


def mask_rcnn(weights: Path, config: Path, output: Path, graphs: bool) -> None:
    """The trained detector of shapes: exports (with `graphs`), references, pictures and evaluation answers."""
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    model.eval()

    image = scenes.scene(0)
    for name, opset in OPSETS.items() if graphs else ():
        exported = exporting.export(model, image, opset)
        if name != "model.onnx":
            share_weights(exported, output / "model.onnx")
        (output / name).write_bytes(exported.SerializeToString(deterministic=True))
    for index in range(SCENES):
        scene = scenes.scene(index)
        found = exporting.detections(model, scene)
        save_detections(output / "reference" / f"scene_{index}.npz", found)
    (output / "images").mkdir(exist_ok=True)
    for index in range(PICTURES):
        picture = output / "images" / f"scene_{index}.jpg"
        cv2.imwrite(str(picture), scenes.scene(index), [cv2.IMWRITE_JPEG_QUALITY, 90])
    for index in range(EVALUATION_SCENES):
        found = exporting.detections(model, scenes.scene(index, scenes.EVALUATION))
        save_detections(output / "evaluation" / f"scene_{index}.npz", coarser(found))
    another_size(model)
    describe(cfg, output, scenes.CLASSES)


def another_size(model: torch.nn.Module) -> None:
    """PyTorch's answers on an image of another size than the export's, for tests/passes/test_fix_input.py."""
    height, width = OTHER
    found = exporting.detections(model, scenes.draw(OTHER_SEED, OTHER)[0])
    path = Path(__file__).resolve().parents[2] / "tests" / "data" / f"mask_rcnn_{height}x{width}.npz"
    np.savez_compressed(path, **found)


def mask_rcnn_zoo(output: Path, graphs: bool) -> None:
    """The full-size R50-FPN of the model zoo: structure and recipe of its weights (with `graphs`), references."""
    cfg = zoo.config()
    images = [scenes.scene(index) for index in range(zoo.SCENES)]
    with tempfile.TemporaryDirectory() as cache:
        if graphs:
            model, recipe = zoo.seeded_model(cfg, scenes.scene(0, scenes.CALIBRATION))
            zoo.store(model, recipe, images[0], OPSETS, output)
        complete = {file: catalog.materialise(output, file, Path(cache)) for file in OPSETS}
        if not graphs:
            model = zoo.stored_model(cfg, complete["model.onnx"], output / "weights.json")
        digests = {file: hashlib.sha256(p.read_bytes()).hexdigest() for file, p in complete.items()}
        answers = zoo.reference(complete["model.onnx"], images)
    reports = []
    for index, (image, answer) in enumerate(zip(images, answers, strict=True)):
        save_detections(output / "reference" / f"scene_{index}.npz", answer)
        torch_answer = Detections.of(**exporting.detections(model, image))
        reports.append(match(torch_answer, Detections.of(**answer)).to_json())
    measured = {"onnxruntime_against_pytorch": reports, "complete_sha256": digests}
    describe(cfg, output, None, measured)


def share_weights(model: onnx.ModelProto, store: Path) -> None:
    """Let the tensors of `model` that `store` also holds be external data inside `store`."""
    data = store.read_bytes()
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < SMALLEST_SHARED:
            continue
        offset = data.find(tensor.raw_data)
        if offset >= 0:
            length = len(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", store.name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))


def save_detections(path: Path, found: dict[str, np.ndarray]) -> None:
    """Write detections as .npz; masks as float16, which errs by less than 0.00025."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = dict(found)
    if "masks" in found:
        stored["masks"] = found["masks"].astype(np.float16)
    np.savez_compressed(path, **stored)


def coarser(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Detections whose masks take half the room; they err by 0.002."""
    return found | {"masks": np.round(found["masks"] * 256) / 256} if "masks" in found else found


def describe(
    cfg: CfgNode,
    output: Path,
    classes: tuple[str, ...] | None,
    measured: dict[str, Any] | None = None,
) -> None:
    """Write `meta.json`: what a reader of the graphs must find, and the digest of each file."""
    files = sorted(f for pattern in LISTED for f in output.glob(pattern))
    scenes = sorted((output / "reference").glob("*.npz"))
    meta = {
        "input": {"shape": [3, 1344, 1344], "dtype": "float32", "range": [0, 255], "layout": "CHW"},
        "opset": OPSETS,
        "class_names": classes,
        "config": numbers(cfg),
        "versions": {
            "detectron2": detectron2.__version__,
            "torch": torch.__version__.partition("+")[0],
            "onnx": onnx.__version__,
            "opencv": cv2.__version__,
        },
        "scenes": {
            f"scene_{index}": {
                "seeds": [scenes.GOLDEN + 9 * index, scenes.GOLDEN + 9 * index + 8],
                "sha256": hashlib.sha256(scenes.scene(index).tobytes()).hexdigest(),
            }
            for index in range(len(scenes))
        },
        **(measured or {}),
        "sha256": {str(f.relative_to(output)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
    }
    text = json.dumps(meta, indent=2) + "\n"
    exporting.refuse_paths(text.encode())
    (output / "meta.json").write_text(text)


def numbers(cfg: CfgNode) -> dict[str, Any]:
    """The fields of a detectron2 config that decide what the exported graph computes."""
    anchors, rpn, heads = cfg.MODEL.ANCHOR_GENERATOR, cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS
    box, mask = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    return {
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "channel_order": cfg.INPUT.FORMAT,
        "shortest_edge": cfg.INPUT.MIN_SIZE_TEST,
        "longest_edge": cfg.INPUT.MAX_SIZE_TEST,
        "strides": [4, 8, 16, 32, 64],
        "fpn_channels": cfg.MODEL.FPN.OUT_CHANNELS,
        "anchors": {
            "sizes": anchors.SIZES,
            "aspect_ratios": anchors.ASPECT_RATIOS[0],
            "offset": anchors.OFFSET,
        },
        "rpn": {
            "box_weights": list(rpn.BBOX_REG_WEIGHTS),
            "pre_nms_topk": rpn.PRE_NMS_TOPK_TEST,
            "post_nms_topk": rpn.POST_NMS_TOPK_TEST,
            "nms_threshold": rpn.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        },
        "box_head": {
            "classes": heads.NUM_CLASSES,
            "class_agnostic_boxes": box.CLS_AGNOSTIC_BBOX_REG,
            "box_weights": list(box.BBOX_REG_WEIGHTS),
            "score_threshold": heads.SCORE_THRESH_TEST,
            "nms_threshold": heads.NMS_THRESH_TEST,
            "detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pooler": pooler(box),
        },
        "mask_head": {
            "class_agnostic": mask.CLS_AGNOSTIC_MASK,
            "size": 2 * mask.POOLER_RESOLUTION,
            "pooler": pooler(mask),
        },
        "scale_clamp": "log(1000/16)",
    }


def pooler(head: CfgNode) -> dict[str, Any]:
    """How the features of one head are pooled; the levels are p2 to p5."""
    return {
        "resolution": head.POOLER_RESOLUTION,
        "sampling_ratio": head.POOLER_SAMPLING_RATIO,
        "aligned": head.POOLER_TYPE == "ROIAlignV2",
        "canonical_level": 4,
        "canonical_size": 224,
    }


def main() -> None:
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description="Remake the golden graphs from detectron2.")
    parser.add_argument("--shapes-weights", type=Path, help="state dict of the trained detector")
    parser.add_argument("--config", type=Path, help="its detectron2 config")
    parser.add_argument("--output", type=Path, default=here, help="folder of the golden graphs")
    parser.add_argument("--only", choices=["mask_rcnn", zoo.NAME], help="remake just this one")
    parser.add_argument("--answers", action="store_true", help="only answers, pictures and descriptions; graphs stay")
    args = parser.parse_args()
    if args.only != zoo.NAME:
        if not (args.shapes_weights and args.config):
            parser.error("mask_rcnn needs --shapes-weights and --config")
        folder = args.output / "mask_rcnn"
        folder.mkdir(parents=True, exist_ok=True)
        mask_rcnn(args.shapes_weights, args.config, folder, not args.answers)
    if args.only != "mask_rcnn":
        folder = args.output / zoo.NAME
        folder.mkdir(parents=True, exist_ok=True)
        mask_rcnn_zoo(folder, not args.answers)


if __name__ == "__main__":
    main()
