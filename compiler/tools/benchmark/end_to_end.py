"""From a picture file to its answer: what each step takes, and what `infer` and `eval` make of it, beside the network alone."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from onnxgraft.atomic import scratch
from onnxgraft.detector.outputs import TENSORS, Role
from onnxgraft.evaluation.truth import from_files
from onnxgraft.golden import scenes
from onnxgraft.runtime import results, rle, sources
from onnxgraft.runtime.images import Placement, read_image, resize
from onnxgraft.runtime.mask_edges import edges
from onnxgraft.runtime.postprocess import ImageDetections, to_original
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import Session
from onnxgraft.tools.answering import Material, answers_of
from onnxgraft.tools.benchmark.process import Rows, measure
from onnxgraft.tools.evaluate import Judges
from onnxgraft.tools.infer import Outputs, Summary, names_of, told_frames

STEPS = ("decode", "resize", "place", "network", "read and move", "paste", "encode", "JSON")
PICTURES = (1, 8, 64)
_INFER, _EVAL, _NETWORK = "infer", "eval", "network"
_SCENES = 6  # that pictures are drawn from


def end_to_end(
    run: Path, pictures: Sequence[int] = PICTURES, repeat: int = 5, progress: Callable[[str], None] = lambda _: None
) -> Rows:
    """A table: milliseconds a picture of each step, one after the other, and of whole runs of `infer` and `eval`, which do
    several at a time; each for several numbers of pictures, drawn scenes written as JPEG.

    Args:
        run: a build folder.
        pictures: how many pictures a run has; a column each.
        repeat: at least so many pictures are counted for each column.
        progress: called with a word on what runs.
    """
    Session(run)  # tells here what is wrong with it
    columns = []
    for count in pictures:
        rounds = -(-repeat // count)
        progress(f"{run}, {count} picture{'s' * (count != 1)}")
        found: dict[str, list[float]] = measure(f"{__name__}:of_pictures", run, count, rounds).result
        columns.append({name: statistics.median(times) for name, times in found.items()})
    rows: Rows = [("milliseconds a picture", *(f"{count} picture{'s' * (count != 1)}" for count in pictures))]
    wholes = [sum(column[step] for step in STEPS) for column in columns]
    rows += [(step, *(f"{column[step]:.1f}" for column in columns)) for step in STEPS]
    rows.append(("all of them, one after the other", *(f"{whole:.1f}" for whole in wholes)))
    names = [name for name in (_INFER, _EVAL) if all(name in column for column in columns)]
    rows += [(f"{name}, several at a time", *(f"{column[name]:.1f}" for column in columns)) for name in names]
    what = "pictures per second / the network's own"
    rows += [(f"{what}: {name}", *(f"{column[f'{name} rate']:.2f}" for column in columns)) for name in names]
    shares = (f"{column[_NETWORK] / whole:.2f}" for column, whole in zip(columns, wholes, strict=True))
    return [*rows, (f"{what}: one after the other", *shares)]


def of_pictures(run: str, pictures: str, rounds: str) -> Callable[[], dict[str, list[float]]]:
    """The rounds of `end_to_end` for one number of pictures: milliseconds a picture of each step, of `infer` and `eval`, and
    their rates as shares of the network's own, which is timed before and after them."""
    subject = _Subject(Path(run), int(pictures))

    def work() -> dict[str, list[float]]:
        with scratch() as folder:
            paths = subject.write(folder)
            subject.steps(paths[:1])  # warms up
            times: dict[str, list[float]] = {}
            before = subject.steps(paths)
            for _ in range(int(rounds)):
                whole = {_INFER: subject.infer(folder, paths), _EVAL: subject.eval(folder)}
                after = subject.steps(paths)
                own = (before[_NETWORK] + after[_NETWORK]) / 2
                shares = {f"{name} rate": own / taken for name, taken in whole.items() if taken is not None}
                known = {name: taken for name, taken in whole.items() if taken is not None}
                for name, value in (before | known | shares).items():
                    times.setdefault(name, []).append(value)
                before = after
        return times

    return work


class _Subject:
    """A build, and pictures for it."""

    def __init__(self, run: Path, pictures: int) -> None:
        self.run, self.pictures = run, pictures
        self.session = Session(run)
        self.annotations = scenes.coco(range(min(pictures, _SCENES)), scenes.GOLDEN)

    def write(self, folder: Path) -> list[Path]:
        """The pictures, and their annotations as `eval` reads them."""
        encoded = [cv2.imencode(".jpg", scenes.scene(i))[1].tobytes() for i in range(min(self.pictures, _SCENES))]
        paths = [folder / f"{i}.jpg" for i in range(self.pictures)]
        for i, path in enumerate(paths):
            path.write_bytes(encoded[i % _SCENES])
        classes = self.session.manifest.classes or 1
        held, kept = self.annotations["images"], list[dict[str, Any]]()
        for i in range(len(paths)):
            own = (a for a in self.annotations["annotations"] if a["image_id"] == i % _SCENES and a["category_id"] < classes)
            kept += [{**a, "image_id": i, "id": len(kept) + number} for number, a in enumerate(own, 1)]
        images = [{**held[i % _SCENES], "id": i, "file_name": path.name} for i, path in enumerate(paths)]
        categories = [{"id": i, "name": str(i)} for i in range(classes)]
        whole = {"images": images, "annotations": kept, "categories": categories}
        (folder / "annotations.json").write_text(json.dumps(whole))
        return paths

    def steps(self, paths: Sequence[Path]) -> dict[str, float]:
        """Milliseconds of each of STEPS, median over the pictures."""
        times = [_one(self.session, path) for path in paths]
        return {step: statistics.median(each[i] for each in times) for i, step in enumerate(STEPS)}

    def infer(self, folder: Path, paths: Sequence[Path]) -> float:
        """Milliseconds a picture of `infer --json`, the build being open."""
        started = time.perf_counter()
        outputs = Outputs(json_file=folder / "found.json")
        names = names_of(self.session, outputs)
        told = told_frames(self.session, sources.find(paths), outputs, names, Summary())
        results.write(folder / "found.json", (one.row for one in told if one.row is not None))
        return (time.perf_counter() - started) * 1000 / len(paths)

    def eval(self, folder: Path) -> float | None:
        """Milliseconds a picture of `eval`, the build being open; None for a network that only segments."""
        if TENSORS[Role.BOXES] not in self.session.manifest.io.outputs:
            return None
        started = time.perf_counter()
        annotations = folder / "annotations.json"
        truth = from_files(folder, annotations)
        judges = Judges(truth, None, None)
        material = Material(self.session.manifest.source.model, folder, annotations)
        for image_id, answer in answers_of(str(self.run), "auto", material, truth, lambda *_: None, opened=self.session):
            judges.add(image_id, answer)
        judges.report()
        return (time.perf_counter() - started) * 1000 / self.pictures


def _one(session: Session, path: Path) -> list[float]:
    """Milliseconds of each of STEPS."""
    ends = [time.perf_counter()]

    def done(value: Any) -> Any:
        ends.append(time.perf_counter())
        return value

    feeder = session.feeder
    picture = done(read_image(path))
    placement = Placement.of(picture.shape[:2], session.manifest.io.area or session.canvas, feeder.rule)
    pixels = done(resize(picture, placement.resized))
    placed = done((feeder.put(pixels), replace(placement, canvas=session.canvas)))
    outputs = done(session.run_feeds(session.feeds([placed], [path])))
    found: ImageDetections = done(to_original(from_outputs(outputs, session.manifest.io), placed[1]))
    masks = found.detections.masks
    pasted = done([] if masks is None else list(edges(masks, found.mask_boxes, found.size, 0.5, columns=True)))
    encoded = done(rle.encoded([one.turns for one in pasted], found.size))
    bare = replace(found, detections=replace(found.detections, masks=None))
    done(json.dumps(results.to_json(path, bare) | {"masks": encoded}))
    return [(end - start) * 1000 for start, end in itertools.pairwise(ends)]
