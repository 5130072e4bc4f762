"""Sensitivity: the ranking of layers, the accuracy budget, and both on a real int8 build."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from faster_coco_eval.core import mask as rle

from onnxgraft import Options, compile
from onnxgraft.errors import InputError
from onnxgraft.golden import scenes
from onnxgraft.quantization import budget, sensitivity
from onnxgraft.quantization.budget import choose
from onnxgraft.quantization.sensitivity import Damage
from onnxgraft.runtime.detections import Detections
from onnxgraft.tools.sensitivity import report_on

PICTURE, CANVAS = (200, 300), (128, 192)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two drawn pictures, larger than the canvas, and instances.json beside them."""
    folder = tmp_path_factory.mktemp("annotated")
    module = scenes
    images, objects = [], []
    for number in range(2):
        picture, instances = module.draw(module.CALIBRATION + 900_000 + number, PICTURE)
        (folder / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "height": PICTURE[0], "width": PICTURE[1]})
        for instance in instances:
            x1, y1, x2, y2 = instance.box
            segmentation = rle.encode(np.asfortranarray(instance.mask))
            segmentation["counts"] = segmentation["counts"].decode()
            objects.append({
                "id": len(objects) + 1, "image_id": number, "category_id": instance.category, "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(instance.mask.sum()), "segmentation": segmentation,
            })  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(module.CLASSES)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content, default=int))
    return folder


def int8_build(model: str, size: tuple[int, int], pictures: Path, folder: Path) -> str:
    options = Options(precision="int8", target="onnxruntime", size=size, calib=pictures / "images", proof=False, checks=False)
    return str(compile(model, folder / "run", options).folder)


def test_the_layers_of_a_build_are_ranked(pictures: Path, tmp_path: Path) -> None:
    run = int8_build("semantic_fpn_thin", (64, 96), pictures, tmp_path)
    report = report_on(run, pictures / "images", None, 1, output=tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    harm = [row["damage"] for row in report["layers"]]
    assert harm == sorted(harm, reverse=True)
    assert harm[0] > 0
    assert len(harm) == 69  # every Conv of the network


@pytest.mark.slow
def test_the_budget_of_a_build_is_met(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are taken in the order of the graph, which costs no measurement of each."""
    order = []

    def unranked(variants: sensitivity.Variants, *_: object) -> list[Damage]:
        order.extend(variants.layers)
        return [Damage(name, node.op, 0.0) for name, node in variants.layers.items()]

    monkeypatch.setattr("onnxgraft.tools.sensitivity.rank", unranked)
    run = int8_build("mask_rcnn", CANVAS, pictures, tmp_path)
    report = report_on(run, pictures / "images", pictures / "instances.json", 1, 0.002, 2, output=tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert len(order) == 86  # every Conv, ConvTranspose and Gemm of the network
    choice = report["choice"]
    assert choice["met"]
    assert choice["images"] == 2
    assert choice["reference"][0] > 0.4  # boxes are compared in the picture's pixels, not the canvas's
    assert 0 <= choice["cost"] < 1
    kept = [] if choice["keep"] == "none" else choice["keep"].split("+")
    assert sorted(kept) == sorted(order[: choice["layers"]])


def planted(monkeypatch: pytest.MonkeyPatch, loss: Callable[[int], float]) -> SimpleNamespace:
    """Eight layers of equal work, and an AP that falls by loss(number of quantized layers)."""
    node = SimpleNamespace(
        op="Gemm", attrs={}, inputs=[None, SimpleNamespace(shape=[4, 4])], outputs=[SimpleNamespace(shape=[2, 4])]
    )
    monkeypatch.setattr(budget, "multiplications", lambda node: 32)
    monkeypatch.setattr(budget, "_ap", lambda variants, quantized, truth: (0.6 - loss(len(quantized)), 0.5))
    return SimpleNamespace(layers={f"backbone/{i}": node for i in range(8)})


@pytest.mark.parametrize("kept", range(9))
def test_the_fewest_layers_are_kept(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = planted(monkeypatch, lambda quantized: 0.0 if quantized <= 8 - kept else 0.01)
    ranking = [Damage(f"backbone/{i}", "Gemm", 1 - i / 10) for i in range(8)]
    choice = choose(variants, ranking, 0.002, SimpleNamespace(ids=[1, 2]))  # type: ignore[arg-type]
    assert (choice.layers, choice.cost, choice.met) == (kept, kept / 8, True)
    assert choice.keep == ("+".join(f"backbone/{i}" for i in range(kept)) or "none")


def test_a_budget_needs_annotations(pictures: Path) -> None:
    with pytest.raises(InputError, match="give --annotations FILE too"):
        report_on("mask_rcnn", pictures / "images", budget=0.002)


def test_a_perfect_answer_does_no_damage() -> None:
    found = Detections.of(np.array([[0.0, 0, 10, 10], [20, 20, 40, 40]]), np.array([0.9, 0.5]), np.array([1, 2]))
    assert sensitivity.damage(found, found) == pytest.approx(0)
    assert sensitivity.damage(found, found.select(np.array([0]))) == pytest.approx(0.5 / 1.4)
