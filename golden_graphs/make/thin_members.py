"""Remake the thin members of all families, with PyTorch's answers. Needs torch and detectron2; a few minutes.

    python -m golden_graphs.make.thin_members [NAME ...]

`answers.npz` of a member holds what PyTorch says of `pictures.blocks(SEED, size)`: masks as uint8 in 255ths, heatmaps and
logits in float16, heatmaps of the best detection only.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from golden_graphs.make import answers, exporting, members, seeding
from onnxgraft.frontends.detectron2 import config_numbers, families, tracing
from onnxgraft.golden import catalog, pictures
from onnxgraft.golden.weights import PACKED

SEED = 20261
HEATMAPS = 1  # detections whose heatmaps are stored
SCRIPT = families.Family("script", families._instances)


def remake(name: str, member: members.Member, home: Path) -> None:
    """Write the folder of one member: structure, recipe of the weights, answers, description."""
    home.mkdir(parents=True, exist_ok=True)
    source = member.build(member)
    image = pictures.blocks(SEED, member.size)
    seen = answers.as_trained(source, image)
    recipe = member.seed(source, seen)
    stripped = seeding.Stripped(source.model, recipe)
    family = families.family_of(source.model)
    proposals = answers.proposals(SEED, member.size) if family.proposals else None
    forms: dict[str, tuple[int, families.Family]] = {"model.onnx": (tracing.smallest_opset(source.model), family)}
    if member.script:
        whole = families.Family("script", families._whole)
        forms["model_opset11.onnx"] = (11, SCRIPT if hasattr(source.model, "roi_heads") else whole)
    for file, (opset, how) in forms.items():
        exported = tracing.export(source.model, image, opset, proposals, how)
        packed = lzma.compress(stripped.strip(file, exported), preset=9)
        (home / f"{file}{PACKED}").write_bytes(packed)
    stripped.write(home / "weights.json")
    with tempfile.TemporaryDirectory() as folder:  # the weights as they are made again, not as they were folded
        digests = {
            file: hashlib.sha256(catalog.materialise(home, file, Path(folder)).read_bytes()).hexdigest() for file in forms
        }
    found = answers.answers(source.model, seen, proposals)
    np.savez_compressed(home / "answers.npz", **compact(found), **({} if proposals is None else {"proposals": proposals}))
    beside = config_numbers.sidecar(source, member.size)
    meta: dict[str, Any] = {
        "family": family.name,
        "from": member.config,
        "input": {"shape": [3, *member.size], "dtype": "float32", "range": [0, 255], "layout": "CHW"},
        "opset": {file: opset for file, (opset, _) in forms.items()},
        "class_names": None,
        "config": beside["config"],
        "picture": {"seed": SEED, "sha256": hashlib.sha256(image.tobytes()).hexdigest()},
        "detections": len(found.get("boxes", ())),
        "complete_sha256": digests,
    }
    exporting.write_meta(home, meta)


def compact(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Answers as they are stored."""
    stored = dict(found)
    if "masks" in stored:
        stored["masks"] = (stored["masks"] * 255).round().astype(np.uint8)
    if "semantic_logits" in stored:
        stored["semantic_logits"] = stored["semantic_logits"].astype(np.float16)
    if "keypoint_heatmaps" in stored:
        stored["keypoint_heatmaps"] = stored["keypoint_heatmaps"][:HEATMAPS].astype(np.float16)
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description="Remake the thin members of all families.")
    parser.add_argument("names", nargs="*", help="members to remake [all]")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="folder of the golden graphs")
    args = parser.parse_args()
    for name in args.names or members.MEMBERS:
        remake(name, members.MEMBERS[name], args.output / name)


if __name__ == "__main__":
    main()
