"""What detectron2's own evaluators say of tests/helpers/evaluator_data.py and of the golden detector's stored answers.

    python -m data.make_evaluators    # in tests/, where detectron2, panopticapi and lvis are installed; writes evaluators.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, LVISEvaluator, SemSegEvaluator
from detectron2.structures import Boxes, Instances
from helpers import evaluator_data as data
from PIL import Image

from onnxgraft.golden import catalog, scenes
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.postprocess import ImageDetections

np.float = float  # type: ignore[attr-defined]  # lvis 0.5.3 asks for a name that NumPy dropped
SCENES = 4
HERE = Path(__file__).resolve().parent


def panoptic(folder: Path) -> dict[str, Any]:
    annotations = []
    (folder / "pan").mkdir()
    for image in range(data.IMAGES):
        ids, info = data.panoptic_truth(image)
        Image.fromarray(np.stack([ids % 256, ids // 256, ids * 0], -1).astype(np.uint8)).save(folder / "pan" / f"{image}.png")
        annotations.append({"image_id": image, "file_name": f"{image}.png", "segments_info": info})
    images = [{"id": i, "file_name": f"{i}.jpg", "height": data.SIZE[0], "width": data.SIZE[1]} for i in range(data.IMAGES)]
    content = {"images": images, "annotations": annotations, "categories": data.panoptic_categories()}
    (folder / "pan.json").write_text(json.dumps(content))
    MetadataCatalog.get("pan").set(
        panoptic_root=str(folder / "pan"), panoptic_json=str(folder / "pan.json"),
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(data.THINGS)},
        stuff_dataset_id_to_contiguous_id={c: i + 1 for i, c in enumerate(data.STUFF)},
    )  # fmt: skip
    evaluator = COCOPanopticEvaluator("pan", str(folder))
    evaluator.reset()
    for image in range(data.IMAGES):
        ids, info = data.panoptic_answer(image)
        evaluator.process([{"image_id": image, "file_name": f"{image}.jpg"}],
                          [{"panoptic_seg": (torch.from_numpy(ids), info)}])  # fmt: skip
    return dict(evaluator.evaluate()["panoptic_seg"])


def lvis(folder: Path) -> dict[str, Any]:
    (folder / "lvis.json").write_text(json.dumps(data.lvis_truth()))
    MetadataCatalog.get("lvis_small").set(json_file=str(folder / "lvis.json"))
    evaluator = LVISEvaluator("lvis_small", ("bbox",), False)
    evaluator.reset()
    for image, (boxes, scores, classes) in data.lvis_answers().items():
        found = Instances(data.SIZE, pred_boxes=Boxes(torch.from_numpy(boxes)), scores=torch.from_numpy(scores),
                          pred_classes=torch.from_numpy(classes))  # fmt: skip
        evaluator.process([{"image_id": image}], [{"instances": found}])
    return dict(evaluator.evaluate()["bbox"])


def semantic(folder: Path) -> dict[str, Any]:
    rows = []
    for image in range(data.IMAGES):
        Image.fromarray(data.semantic(image)[1].astype(np.uint8)).save(folder / f"sem_{image}.png")
        rows.append({"file_name": f"{image}.jpg", "sem_seg_file_name": str(folder / f"sem_{image}.png")})
    DatasetCatalog.register("sem", lambda: rows)
    MetadataCatalog.get("sem").set(stuff_classes=list("abcde"), ignore_label=255)
    evaluator = SemSegEvaluator("sem", False)
    evaluator.reset()
    for image in range(data.IMAGES):
        logits = np.eye(5, dtype=np.float32)[data.semantic(image)[0]].transpose(2, 0, 1)
        evaluator.process([{"file_name": f"{image}.jpg"}], [{"sem_seg": torch.from_numpy(logits)}])
    return dict(evaluator.evaluate()["sem_seg"])


def keypoints(folder: Path) -> dict[str, Any]:
    (folder / "persons.json").write_text(json.dumps(data.person_truth() | {"info": {}}))
    MetadataCatalog.get("persons").set(json_file=str(folder / "persons.json"), thing_classes=["person"],
                                     thing_dataset_id_to_contiguous_id={1: 0})  # fmt: skip
    evaluator = COCOEvaluator("persons", ("bbox", "keypoints"), False, use_fast_impl=False)
    evaluator.reset()
    for image, (boxes, scores, points) in data.person_answers().items():
        found = Instances((480, 640), pred_boxes=Boxes(torch.from_numpy(boxes)), scores=torch.from_numpy(scores),
                          pred_classes=torch.zeros(len(boxes), dtype=torch.int64),
                          pred_keypoints=torch.from_numpy(points))  # fmt: skip
        evaluator.process([{"image_id": image}], [{"instances": found}])
    return {kind: dict(values) for kind, values in evaluator.evaluate().items()}


def coco(folder: Path) -> dict[str, Any]:
    """The trained Mask R-CNN's answers in PyTorch, as they are stored, on the first scenes."""
    (folder / "coco.json").write_text(json.dumps(scenes.coco(range(SCENES)) | {"info": {}}))
    MetadataCatalog.get("shapes").set(json_file=str(folder / "coco.json"), thing_classes=list("abcde"))
    evaluator = COCOEvaluator("shapes", ("bbox", "segm"), False, use_fast_impl=False)
    evaluator.reset()
    for image in range(SCENES):
        held = Detections.load(catalog.ROOT / "mask_rcnn" / "evaluation" / f"scene_{image}.npz")
        pasted = ImageDetections.of(held, (1344, 1344)).pasted()
        found = Instances((1344, 1344), pred_boxes=Boxes(torch.from_numpy(held.boxes)), scores=torch.from_numpy(held.scores),
                          pred_classes=torch.from_numpy(held.classes), pred_masks=torch.from_numpy(pasted))  # fmt: skip
        evaluator.process([{"image_id": image}], [{"instances": found}])
    return {kind: dict(values) for kind, values in evaluator.evaluate().items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        measured = {run.__name__: run(Path(name)) for run in (panoptic, lvis, semantic, keypoints, coco)}
    plain = json.loads(json.dumps(measured, default=float))
    (HERE / "evaluators.json").write_text(json.dumps(plain, indent=1) + "\n")
