"""Ranks a model's layers by what int8 does to them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.atomic import is_folder, scratch
from onnxgraft.errors import InputError
from onnxgraft.evaluation import truth as truths
from onnxgraft.evaluation.truth import Truth
from onnxgraft.files import CACHE, write_json
from onnxgraft.golden import catalog, scenes
from onnxgraft.manifest import Manifest
from onnxgraft.options import Options, Size
from onnxgraft.quantization import dataset as picture_sets
from onnxgraft.quantization.budget import choose
from onnxgraft.quantization.calibrate import prepare
from onnxgraft.quantization.ranges import Provider
from onnxgraft.quantization.sensitivity import _UNSEEN, JUDGING, RANKING, Progress, Variants, rank


def report_on(
    run: str,
    images: Path | None = None,
    annotations: Path | None = None,
    limit: int = RANKING,
    budget: float | None = None,
    budget_images: int = JUDGING,
    calibration: Path | None = None,
    output: Path | None = None,
    progress: Progress = lambda done, total, name: None,
) -> dict[str, Any]:
    """Rank a model's layers; with a budget, also choose which to keep in fp16.

    Args:
        run: an int8 build folder, an .onnx file, or the name of a golden graph.
        images: folder of pictures; a trained golden graph draws scenes that no calibration or evaluation uses.
        annotations: COCO instances of these pictures, needed with a budget.
        limit: how many pictures rank the layers.
        budget: by how much box and mask AP may fall; budget_images pictures judge it.
        calibration: see ranges.Provider.
        output: gets the result as JSON.
        progress: called with (steps done, steps in all, what runs).

    Raises:
        InputError: there is nothing to measure on.
    """
    model, size = run, (1344, 1344)
    if is_folder(Path(run)):
        manifest = Manifest.read(Path(run))
        model, size = manifest.source.model, manifest.io.image.canvas
        held = Path(run) / "calibration.json"
        calibration = calibration or (held if held.is_file() else None)
    else:
        catalog.resolve(run, CACHE)
    pictures, truth = _material(model, images, annotations, limit, budget_images if budget is not None else None)
    prepared = prepare(model, Options(size=Size(*size)))
    provider = Provider(model, CACHE, calibration, rule=prepared.rule)
    provider.ranges(prepared.graph, prepared.ctx, prepared.groups)
    with scratch() as folder:
        variants = Variants(prepared, provider, folder)
        ranking = rank(variants, pictures, progress)
        choice = choose(variants, ranking, budget, truth, progress) if budget is not None and truth else None
    report = {
        "model": model, "images": len(pictures),
        "layers": [asdict(row) for row in ranking],
        "choice": asdict(choice) | {"met": choice.met} if choice else None,
    }  # fmt: skip
    if output is not None:
        write_json(output, report, indent=1)
    return report


def _material(
    model: str, images: Path | None, annotations: Path | None, limit: int, judged: int | None
) -> tuple[list[NDArray[np.uint8]], Truth | None]:
    """Pictures that rank the layers, and annotated ones that judge a budget."""
    if images is not None:
        if judged is not None and annotations is None:
            raise InputError("an accuracy budget needs annotated pictures: give --annotations FILE too")
        truth = truths.from_files(images, annotations, judged) if judged is not None and annotations else None
        return [p.load() for p in picture_sets.folder(images, limit)], truth
    if catalog.evaluation(model) is None:
        raise InputError("give --images DIR: only trained golden graphs draw their own pictures")
    base = scenes.CALIBRATION + _UNSEEN
    truth = truths.from_scenes(judged, base) if judged is not None else None
    return [np.asarray(scenes.scene(i, base)) for i in range(limit)], truth
