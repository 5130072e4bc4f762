"""Every model of detectron2's zoo: exported, compiled, compared with PyTorch. Needs torch and detectron2; hours.

    python -m golden_graphs.zoo.sweep [--size 1344x1344] [--only NAME ...] [--steps plugin,native,script,fp32,fp16,int8]

A config is built with seeded weights, exported by `onnxgraft`'s frontend and as detectron2's own script does it
(opset 11), compiled, and run in ONNX Runtime against PyTorch's detections; TensorRT-RTX builds its engines. One JSON file
per config in build/zoo makes the sweep resumable: what a file already holds at the same size is not run again. Configs
that differ in training alone (1x and 3x) describe the same model, which is run once.
docs/zoo.md is written from the files. `--beyond SOURCE`, with detectron2's source tree, runs the rows of `beyond` instead,
which make the second table there.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import re
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from detectron2 import model_zoo
from detectron2.export import STABLE_ONNX_OPSET_VERSION, TracingAdapter
from detectron2.layers import ROIAlign
from detectron2.modeling import GeneralizedRCNN

from golden_graphs.make import answers, rounding, seeding
from golden_graphs.zoo import beyond, checking
from golden_graphs.zoo import table as zoo_table
from onnxgraft.driver.compile import compile
from onnxgraft.frontends.detectron2 import config_numbers, configs, families, supported, tracing
from onnxgraft.golden import pictures
from onnxgraft.manifest import Times
from onnxgraft.options import Options
from onnxgraft.targets import get

ENGINES = ("fp32", "fp16", "int8")
STEPS = ("plugin", "native", "batch", "script", *ENGINES)
LEFT_OUT = re.compile(r"Base|torchvision|mmdet|quick_schedules/|common/|new_baselines/")
SEED = 20262
DEEP = 40  # residual blocks; through more of them random weights let rounding grow, unless the branches are small
PICTURES = 3  # that are tried when rounding decides what is detected
BATCH, TRIED = 4, 9  # pictures of a batch, and how many more are tried for them
SPREAD_OF_SCORES = 2.5
CANDIDATES = 3000  # boxes and classes above the score threshold, about
CALIBRATION = 1  # picture: the builds must succeed, their AP is not judged here

# Means and spreads of the dense heads' outputs; see `seeding`.
DENSE: dict[str, dict[str, Any]] = {
    "retinanet": {"spread": {"cls_score": 0.8, "bbox_pred": 0.3}, "mean": {"cls_score": -4.5}},
    "fcos": {"spread": {"cls_score": 1.2, "bbox_pred": 0.7}, "mean": {"cls_score": -3.0, "bbox_pred": 3.0}},
}


SOURCE = Path()  # detectron2's source tree, for configs of its projects


def zoo() -> list[str]:
    """The 67 configs of detectron2, by their names in the model zoo."""
    root = Path(model_zoo.get_config_file("Base-RCNN-FPN.yaml")).parent
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.suffix in (".yaml", ".py")]
    return sorted(name for name in found if not LEFT_OUT.search(name))


def seed(source: configs.Source, family: str, image: np.ndarray, row: beyond.Beyond | None = None) -> None:
    """Seeded weights with which detections exist and their scores differ."""
    means, spreads = (row.means, row.spreads) if row is not None else (None, None)
    settings = {**DENSE.get(family, {}), **({"mean": means} if means is not None else {})}
    spread = {**seeding.SPREAD, "cls_score": SPREAD_OF_SCORES, "conv2_offset": 0.05, **settings.get("spread", {}),
              **(spreads or {})}  # fmt: skip
    if sum(name.endswith(".conv3") for name, _ in source.model.named_modules()) > DEEP:
        spread[".conv3"] = 0.25
    heads = getattr(source.model, "roi_heads", None)
    background = 0.0
    if heads is not None:
        box = config_numbers.sidecar(source, image.shape[:2])["config"]["box_head"]
        background = 0.0 if means is not None else background_of(box["classes"], box["score_threshold"])
    seeding.spread_positions(source.model)
    seeding.seeded(source.model, image, background=background, spread=spread, mean=settings.get("mean", {}))


def background_of(classes: int, threshold: float, proposals: int = 1000) -> float:
    """The background's mean logit at which about CANDIDATES scores of normal logits exceed `threshold` after softmax."""
    share = min(0.4, CANDIDATES / (proposals * classes))
    top = SPREAD_OF_SCORES * statistics.NormalDist().inv_cdf(1 - share)
    rest = math.exp(top) / threshold - classes * math.exp(SPREAD_OF_SCORES**2 / 2)
    return math.log(max(rest, 1.0))


# Settings of a yaml config that inference does not read.
TRAINING = re.compile(
    r"WEIGHTS: |TRAIN|LOSS|FREEZE|BATCH_SIZE|IOU_|SMOOTH|POSITIVE_FRACTION|BOUNDARY_THRESH|APPEND_GT|IOUS|MODEL_ZOO|ALPHA|GAMMA"
)


def model_key(config: str) -> str:
    """What inference with the model of a config depends on: equal for configs that describe the same model."""
    if config in beyond.ROWS:
        return beyond.key(config)
    cfg = model_zoo.get_config(config)
    if not hasattr(cfg, "MODEL"):
        return config
    lines = [f"{key}: {value}" for key, value in sorted(_flat(cfg.MODEL))]
    kept = [line for line in lines if not TRAINING.search(line)]
    return "\n".join([*kept, str(cfg.TEST.DETECTIONS_PER_IMAGE), cfg.INPUT.FORMAT])


def _flat(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in node.items():
        found += _flat(value, f"{prefix}{key}.") if hasattr(value, "items") else [(f"{prefix}{key}", value)]
    return found


class Row:
    """The JSON file of one config; steps that it already has are not run again."""

    def __init__(self, path: Path, config: str, size: tuple[int, int]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"config": config, "size": list(size)}
        if path.is_file():
            before = json.loads(path.read_text())
            if before["size"] == list(size):
                self.data = before

    def adopt(self, other: Path) -> None:
        """Take the results of another config of the same model."""
        data = json.loads(other.read_text())
        self._write({**data, "config": self.data["config"], "same_as": data.get("same_as", data["config"])})

    def step(self, name: str, run: Callable[[], Any]) -> None:
        """Run one step and keep its result or the first line of its error."""
        started = time.perf_counter()
        try:
            self.data[name] = run()
        except Exception as error:  # whatever goes wrong with one model, the others go on
            self.data[name] = {"error": _line(error)}
        self.data.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 1)
        self._write(self.data)

    def _write(self, data: dict[str, Any]) -> None:
        self.data = data
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(data, indent=1) + "\n")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:240]}"


def measure(config: str, size: tuple[int, int], steps: list[str], row: Row, threads: int) -> None:
    """Run the steps that `row` lacks, on the first picture whose detections rounding alone does not decide."""
    wanted = [step for step in steps if step not in row.data]
    for number in range(PICTURES if wanted else 0):
        image = pictures.blocks(SEED + number, size)
        if _measured(config, image, wanted, row, threads, last=number == PICTURES - 1):
            break


def _measured(config: str, image: np.ndarray, wanted: list[str], row: Row, threads: int, last: bool) -> bool:
    """Run the steps on one picture; False, before any engine, when it tells nothing and is not the last one."""
    size = (image.shape[0], image.shape[1])
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        work = Path(folder)
        ours = work / "model.onnx"
        truth = _exports(config, image, "script" in wanted, "batch" in wanted, row, work, threads)
        gc.collect()  # the PyTorch model is not needed any more
        if "error" in row.data["export"]:
            return True
        for form in (form for form in checking.FORMS if form in wanted):
            row.step(form, lambda form=form: _check(ours, form, image, truth, work, threads))  # type: ignore[misc]
        judged = [row.data[step] for step in (*checking.FORMS, "script") if step in wanted]
        differs = any(step.get("exact") is False for step in judged)
        if differs and not last and "boxes" in truth and _rounding_decides(config, image, truth, row):
            return False
        for precision in (step for step in ENGINES if step in wanted):
            row.step(precision, lambda precision=precision: _engine(ours, precision, size, work))  # type: ignore[misc]
    return True


def _rounding_decides(config: str, image: np.ndarray, truth: dict[str, np.ndarray], row: Row) -> bool:
    source = _seeded(config, image)
    report = rounding.against_double(source.model, answers.as_trained(source, image), truth)
    if not report.exact:
        row.data.setdefault("undecided", []).append(f"PyTorch in float64: {report}")
    return not report.exact


def _seeded(config: str, image: np.ndarray) -> configs.Source:
    source = beyond.load(config, SOURCE, (image.shape[0], image.shape[1]))
    supported.refuse_unknown(source.model)
    family = families.family_of(source.model).name
    seed(source, family, answers.as_trained(source, image), beyond.ROWS.get(config))
    return source


def _exports(
    config: str, image: np.ndarray, script: bool, batch: bool, row: Row, work: Path, threads: int
) -> dict[str, np.ndarray]:
    """PyTorch's answers; leaves the exports in `work`."""
    size = (image.shape[0], image.shape[1])
    source = _seeded(config, image)
    family = families.family_of(source.model)
    proposals = answers.proposals(SEED, size, 1000) if family.proposals else None
    truth = answers.answers(source.model, answers.as_trained(source, image), proposals)
    if proposals is not None:
        truth["proposals"] = proposals
    row.data |= {"family": family.name, "detections": len(truth.get("boxes", ()))}
    row.step("export", lambda: _export(source, image, proposals, family, work / "model.onnx", size))
    if batch and "error" not in row.data["export"]:
        images, truths = _others(source, size, proposals, row)
        row.step("batch", lambda: _batch(work / "model.onnx", [image, *images], [truth, *truths], work, threads))
        source.model.float()
    if script:
        row.step("script", lambda: _script(source, image, work, truth, threads))
    return truth


def _others(
    source: configs.Source, size: tuple[int, int], proposals: np.ndarray | None, row: Row
) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
    """Other pictures for a batch and PyTorch's answers, those that rounding decides last. It may leave the model in float64."""
    decided, undecided = [], []
    for number in range(PICTURES, PICTURES + TRIED):
        image = pictures.blocks(SEED + number, size)
        given = answers.as_trained(source, image)
        truth = answers.answers(source.model.float(), given, proposals)
        report = rounding.against_double(source.model, given, truth) if "boxes" in truth else None
        (decided if report is None or report.exact else undecided).append((image, truth))
        if report is not None and not report.exact:
            row.data.setdefault("undecided", []).append(f"for the batch, PyTorch in float64: {report}")
        if len(decided) == BATCH - 1:
            break
    chosen = [*decided, *undecided][: BATCH - 1]
    return [image for image, _ in chosen], [truth for _, truth in chosen]


def _export(source: Any, image: Any, proposals: Any, family: Any, path: Path, size: tuple[int, int]) -> dict[str, Any]:
    opset = tracing.smallest_opset(source.model)
    onnx.save(tracing.export(source.model, image, opset, proposals, family), path)
    path.with_suffix(".json").write_text(json.dumps(config_numbers.sidecar(source, size)))
    return {"opset": opset, "mib": round(path.stat().st_size / 2**20, 1)}


def _script(source: Any, image: np.ndarray, work: Path, truth: Any, threads: int) -> dict[str, Any]:
    """What detectron2's tools/deploy/export_model.py traces, at its opset; and whether that compiles to the same."""
    path = work / "script.onnx"
    try:
        _as_the_script_does(source.model, image, path)
    except Exception as error:  # a tracer may raise anything
        return {"exported": False, "why": _line(error)}
    panoptic = families.family_of(source.model).name == "panoptic_fpn"  # of which it traces the instances alone
    there = {name: value for name, value in truth.items() if not (panoptic and name == "semantic_logits")}
    # below opset 16 an export cannot say which RoIAlign it means: the user does
    unaligned = any(isinstance(layer, ROIAlign) and not layer.aligned for layer in source.model.modules())
    pooler_type = "ROIAlign" if unaligned else checking.ALIGNED
    return {"exported": True, **_check(path, "plugin", image, there, work, threads, pooler_type)}


def _as_the_script_does(model: Any, image: np.ndarray, path: Path) -> None:
    """detectron2's own tracing (export_tracing of its script), with nothing of ours around it."""
    how = families._instances if isinstance(model, GeneralizedRCNN) else None
    adapter = TracingAdapter(model, [{"image": tracing.to_tensor(image)}], how)
    adapter.eval()
    with torch.no_grad():
        torch.onnx.export(adapter, adapter.flattened_inputs, path, opset_version=STABLE_ONNX_OPSET_VERSION, dynamo=False)


def _check(
    path: Path, form: str, image: np.ndarray, truth: Any, work: Path, threads: int, pooler_type: str = checking.ALIGNED
) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    found = checking.check(path, form, image, truth, work, beside if beside.is_file() else None, threads, pooler_type)
    return {"share": found.share, "exact": found.exact, "surgery": round(found.surgery, 1), "said": str(found)}


def _batch(path: Path, images: list[np.ndarray], truths: list[Any], work: Path, threads: int) -> dict[str, Any]:
    """Different pictures in one batch, in plugin form, each against PyTorch."""
    reports = checking.check_batch(path, "plugin", images, truths, work, path.with_suffix(".json"), threads)
    said = "; ".join(map(str, reports))
    return {"share": min(r.share for r in reports), "exact": all(r.exact for r in reports), "said": said}


def _engine(path: Path, precision: str, size: tuple[int, int], work: Path) -> dict[str, Any]:
    pictures_of = work / "calibration"
    if precision == "int8" and not pictures_of.is_dir():
        pictures_of.mkdir()
        for index in range(CALIBRATION):
            cv2.imwrite(str(pictures_of / f"{index}.png"), pictures.blocks(SEED + index, size))
    folder = work / precision
    options = Options(
        target="tensorrt-rtx", precision=precision, size=size, checks=False, calib=pictures_of if precision == "int8" else None,
    )  # fmt: skip
    made = compile(path, folder, options)
    seconds = Times.read(folder).total or 0.0
    size_of = made.manifest.sizes.get(made.manifest.engine or "", 0)
    shutil.rmtree(folder)
    return {"built": bool(size_of), "mib": round(size_of / 2**20, 1), "seconds": round(seconds, 1)}


def _file(results: Path, name: str) -> Path:
    return results / f"{name.replace('/', '--')}.json"


def _raise(error: Exception) -> None:
    raise error


def main() -> None:
    parser = argparse.ArgumentParser(description="Export, compile and compare every model of detectron2's zoo.")
    parser.add_argument("--size", default="1344x1344", help="height x width of the pictures")
    parser.add_argument("--only", nargs="*", default=[], help="configs whose name contains one of these")
    parser.add_argument("--beyond", type=Path, metavar="SOURCE", help="run what is beyond the zoo; detectron2's source tree")
    parser.add_argument("--steps", help=f"some of {','.join(STEPS)} [those of the table]")
    parser.add_argument("--results", type=Path, default=Path("build") / "zoo")
    parser.add_argument("--table", type=Path, default=Path("docs") / "zoo.md")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no further config after this")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    height, _, width = args.size.partition("x")
    size = (int(height), int(width))
    global SOURCE
    SOURCE = args.beyond or Path()
    steps = args.steps.split(",") if args.steps else [s for s in STEPS if s != ("script" if args.beyond else "batch")]
    missing = get("tensorrt-rtx").available()
    if missing is not None and set(steps) & set(ENGINES):
        parser.error(f"{missing}; or leave the engines out: --steps {','.join(s for s in steps if s not in ENGINES)}")
    names = zoo() if args.beyond is None else list(beyond.ROWS)
    keys = {name: model_key(name) for name in names}
    first = {key: name for name, key in reversed(keys.items())}
    started = time.monotonic()
    for name in names:
        if first[keys[name]] != name or (args.only and not any(part in name for part in args.only)):
            continue
        if time.monotonic() - started > 60 * args.minutes:
            break
        row = Row(_file(args.results, name), name, size)
        try:
            measure(name, size, steps, row, args.threads)
        except Exception as error:
            row.step("export", lambda error=error: _raise(error))  # type: ignore[misc]
        print(zoo_table.line(row.data), flush=True)
        gc.collect()
    for name in names:
        other = _file(args.results, first[keys[name]])
        if first[keys[name]] != name and other.is_file():
            Row(_file(args.results, name), name, size).adopt(other)
    write = zoo_table.write if args.beyond is None else zoo_table.write_beyond
    write(names, args.results, args.table)


if __name__ == "__main__":
    main()
