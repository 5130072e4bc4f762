"""The file as it was given against the compiled graph, on pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxgraft.detector.reference import by_location, softmax
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import TargetError
from onnxgraft.proof.feeds import Picture, made_picture
from onnxgraft.proof.models import BuildModel, FileModel
from onnxgraft.runtime.comparison import MatchReport, match
from onnxgraft.runtime.detections import Detections

ENOUGH = 20  # detections, for a comparison to say something
_CANDIDATES = (300, 3000)  # how many class scores lie above a lowered threshold
_NO_LOWER = "too few detections, and no lower score threshold gives more: give --images"
_MORE = 4  # pictures that are made where one has too few detections and a lower threshold gives no more
_SHAKES = 4  # runs that tell what the file itself is not sure of
_SEED = 20_261_128


@dataclass(frozen=True)
class Compared:
    """What pictures said.

    reports: one for each. undecided: for each, how many detections differ that the file itself gains or loses when its pixels
    change by a thousandth. difference: the first picture on which both differ beyond that, in words. lowered: the score
    threshold that was set on both sides, where the file's own left too little to compare. missing: why nothing follows, or
    None. ran: name of the delivered file that was run; None where it was the graph before it is lowered. distance: how far the
    typed graph is on each picture, above the file's own threshold; empty where there is none. answers: what the build finds on
    each picture, typed where it is.
    """

    reports: tuple[MatchReport, ...] = ()
    undecided: tuple[int, ...] = ()
    difference: str | None = None
    lowered: float | None = None
    missing: str | None = None
    ran: str | None = None
    distance: tuple[MatchReport, ...] = ()
    answers: tuple[Detections, ...] = ()


def pictures_of(given: Sequence[Picture], size: tuple[int, int], number: int) -> list[Picture]:
    """`number` different pictures of a size: those given, then those given mirrored and turned, then made ones."""
    fitting = [p for p in given if p.shape[:2] == size]
    turned = [np.ascontiguousarray(turn(p)) for turn in _TURNS for p in fitting]
    made = (made_picture(_SEED + i, size) for i in itertools.count())
    return list(itertools.islice(itertools.chain(fitting, turned, made), number))


_TURNS: tuple[Callable[[Picture], Picture], ...] = (lambda p: p[:, ::-1], lambda p: p[::-1], lambda p: p[::-1, ::-1])


def compare_pictures(
    file: Callable[[tuple[int, int]], FileModel], build: BuildModel, pictures: Sequence[Picture],
    typed: BuildModel | None = None,
) -> Compared:  # fmt: skip
    """Run each picture through the file at the picture's own size, and all of them through the build in batches.

    Args:
        file: makes the file's model for a size.
        build: the compiled graph; its batch is filled with the last picture.
        pictures: uint8 BGR; smaller than the canvas only where the build's answers do not depend on what lies around.
        typed: the delivered graph where it answers otherwise by intent.
    """
    models = {size: file(size) for size in dict.fromkeys((p.shape[0], p.shape[1]) for p in pictures)}
    expected: list[Detections] = []
    for picture in pictures:
        size = picture.shape[0], picture.shape[1]
        try:
            expected.append(models[size](picture))
        except TargetError as error:
            return Compared(missing=f"the file does not run at {size[0]}x{size[1]}: {error}")
    spec, own = models[size].spec, list(expected)
    lowered, missing = None, None
    enough = min(ENOUGH, _most(spec) * len(pictures))
    if _detects(spec) and sum(map(len, expected)) < enough:
        lowered, missing = _lower(models, build, pictures)
        if missing == _NO_LOWER:
            pictures, expected = _with_more(models[size], pictures, expected, enough)
            own = list(expected)
            missing = missing if sum(map(len, expected)) < enough else None
        if lowered is not None:
            expected = [models[p.shape[0], p.shape[1]](p) for p in pictures]
        if lowered is not None and sum(map(len, expected)) < enough:
            missing = f"the file finds {sum(map(len, expected))} detections on these pictures"
    found = in_batches(build, pictures)
    delivered = in_batches(typed, pictures) if typed is not None else found
    distance = [match(a, b) for a, b in zip(own, delivered, strict=True)] if typed is not None else []
    reports, undecided, difference = [], [], None
    for number, (picture, mine, theirs) in enumerate(zip(pictures, expected, found, strict=True), start=1):
        report = match(mine, theirs)
        excused = 0 if report.exact else _undecided(models[picture.shape[0], picture.shape[1]], picture, mine, report)
        if excused is None and difference is None:
            difference = f"picture {number}: {report}"
        reports.append(report)
        undecided.append(excused or 0)
    ran = build.delivered.path.name if build.delivered is not None else None
    return Compared(tuple(reports), tuple(undecided), difference, lowered, missing, ran, tuple(distance), tuple(delivered))


def _with_more(
    file: FileModel, pictures: Sequence[Picture], expected: list[Detections], enough: int
) -> tuple[list[Picture], list[Detections]]:
    """Pictures with made ones of the last one's size, and what the file finds on each, until that is enough."""
    shown, found = list(pictures), list(expected)
    for picture in pictures_of((), (shown[-1].shape[0], shown[-1].shape[1]), len(shown) + _MORE)[len(shown) :]:
        if sum(map(len, found)) >= enough:
            break
        shown.append(picture)
        found.append(file(picture))
    return shown, found


def in_batches(build: BuildModel, pictures: Sequence[Picture]) -> list[Detections]:
    """What a build detects on each picture; the last one fills its batch."""
    found: list[Detections] = []
    for start in range(0, len(pictures), build.batch):
        chunk = list(pictures[start : start + build.batch])
        found += build([*chunk, *[chunk[-1]] * (build.batch - len(chunk))])[: len(chunk)]
    return found


def _undecided(file: FileModel, picture: Picture, expected: Detections, report: MatchReport) -> int | None:
    """How many detections differ, where the file itself loses each of them, and finds as many others, when its pixels change
    by a thousandth of a grey level; None where it does not."""
    if not report.same_map or np.dtype(file.graph.gs.inputs[0].dtype) != np.float32:
        return None
    lost = set(range(report.reference)) - set(report.pairs[: report.matched, 0].tolist())
    unsure: set[int] = set()
    others = 0
    for seed in range(_SHAKES):
        shaken = picture + np.random.default_rng(seed).uniform(-1e-3, 1e-3, picture.shape).astype(np.float32)
        own = match(expected, file(shaken))
        unsure |= set(range(own.reference)) - set(own.pairs[: own.matched, 0].tolist())
        others = max(others, own.found - own.matched)
    fair = lost <= unsure and report.found - report.matched <= max(others, len(lost))
    return max(len(lost), report.found - report.matched) if fair else None


def _most(spec: DetectorSpec) -> int:
    """How many detections a picture can have."""
    head = spec.box_head or spec.dense
    return head.detections_per_image if head is not None else ENOUGH


def _detects(spec: DetectorSpec) -> bool:
    return spec.outputs.boxes_tensor is not None


def _lower(
    models: dict[tuple[int, int], FileModel], build: BuildModel, pictures: Sequence[Picture]
) -> tuple[float | None, str | None]:
    """Set a lower score threshold on both sides. (the threshold, None) or (None, why not)."""
    first = models[pictures[0].shape[0], pictures[0].shape[1]]
    spec = first.spec
    old = spec.box_head.score_threshold if spec.box_head else spec.dense.score_threshold if spec.dense else None
    names = _score_tensors(spec)
    if old is None or not first.find(names):
        return None, "too few detections, and where the file's scores are compared was not found: give --images"
    outputs = first.look(pictures[0])
    new = _threshold(_class_scores(spec, [outputs[name] for name in names]), old)
    if new is None:
        return None, _NO_LOWER
    if not all(model.lower(old, new) for model in models.values()) or not build.lower(old, new):
        return None, "too few detections, and the score threshold could not be lowered on both sides: give --images"
    return new, None


def _score_tensors(spec: DetectorSpec) -> list[str]:
    if spec.box_head is not None:
        return [*(stage.scores_tensor for stage in spec.cascade), spec.box_head.scores_tensor]
    levels = spec.dense.levels if spec.dense else ()
    return [name for level in levels for name in (level.logits_tensor, level.centerness_tensor) if name]


def _class_scores(spec: DetectorSpec, arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Scores of all candidates, flat."""
    if spec.box_head is not None:
        return np.asarray(np.mean(arrays, axis=0)[:, spec.box_head.foreground].reshape(-1), np.float32)
    if spec.dense is not None and spec.dense.first_class:
        head = spec.dense
        return np.concatenate([softmax(by_location(a, head.columns))[:, head.first_class :].reshape(-1) for a in arrays])
    with np.errstate(over="ignore"):
        maps = iter([1 / (1 + np.exp(-a)) for a in arrays])
    scores = []
    for level in spec.dense.levels if spec.dense else ():
        score = next(maps)
        if level.centerness_tensor:
            score = np.sqrt(score * next(maps))
        scores.append(score.reshape(-1))
    return np.concatenate(scores)


def _threshold(scores: NDArray[np.float32], old: float) -> float | None:
    """Between two scores that are clearly apart, with some hundred candidates above it and below the old one."""
    highest = np.sort(scores[np.isfinite(scores)])[::-1][: max(_CANDIDATES)].astype(np.float64)
    for wanted in _CANDIDATES:
        window = highest[wanted // 2 : wanted + 1]
        if len(window) > 1:
            gap = int(np.argmax((window[:-1] - window[1:]) / np.maximum(window[:-1], 1e-30)))
            new = float(np.float32((window[gap] + window[gap + 1]) / 2))
            if 0 < new < old and window[gap] > window[gap + 1]:
                return new
    return None
