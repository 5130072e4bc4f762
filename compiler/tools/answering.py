"""The answers that an evaluation judges: of a build or an export, here or on many machines, from where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.atomic import is_folder
from onnxgraft.errors import InputError, OnnxgraftError
from onnxgraft.evaluation.answers import Answer
from onnxgraft.evaluation.panoptic_quality import read_truth
from onnxgraft.evaluation.truth import SCENES, Truth, from_cityscapes, from_files, from_panoptic, from_scenes, from_semantic
from onnxgraft.files import CACHE, digest, write_atomically
from onnxgraft.golden import catalog
from onnxgraft.manifest import MANIFEST, GraphIO, ImageIO, Manifest, Preprocess
from onnxgraft.quantization.distributed import gather
from onnxgraft.runtime.ahead import ahead, behind
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.postprocess import to_original
from onnxgraft.runtime.read_outputs import from_raw_export
from onnxgraft.runtime.session import ImageResult, Loaded
from onnxgraft.runtime.variants import Build, open_build
from onnxgraft.targets import OrtRunner
from onnxgraft.tools.inspect import inspect

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Detector:
    """What answers. load: places a picture, uint8 [H, W, 3] BGR. run: gives the results of placed pictures."""

    load: Callable[[NDArray[np.uint8]], Loaded]
    run: Callable[[Iterable[Loaded]], Iterator[ImageResult]]

    @classmethod
    def of(cls, build: Build) -> Detector:
        """A build that is open."""
        return cls(build.load, build.run)


@dataclass(frozen=True)
class Material:
    """What a run is judged on, see tools.evaluate.evaluate. source: the model, which may bring scenes along."""

    source: str
    images: Path | None = None
    annotations: Path | None = None
    limit: int | None = None
    semantic: Path | None = None
    panoptic: Path | None = None
    panoptic_pictures: Path | None = None

    def truth(self) -> Truth:
        """The annotated pictures. Raises InputError."""
        if self.images is not None and self.annotations is None and self.panoptic is not None:
            return from_panoptic(self.images, read_truth(self.panoptic, self.panoptic_pictures), self.limit)
        if self.images is not None and self.annotations is None and self.semantic is not None:
            return from_semantic(self.images, self.semantic, self.limit)
        if (self.images is None) != (self.annotations is None):
            raise InputError("give both --images and --annotations, or neither")
        if self.images is not None and self.annotations is not None:
            load = from_cityscapes if self.annotations.is_dir() else from_files
            return load(self.images, self.annotations, self.limit)
        if catalog.evaluation(self.source) is None:
            hint = "only trained golden graphs bring annotated scenes along"
            raise InputError(f"give --images DIR and --annotations FILE: {hint}")
        return from_scenes(SCENES if self.limit is None else self.limit)

    def stored(self) -> Path | None:
        """Where a golden graph's stored answers to its scenes are; None for other pictures."""
        drawn = self.images is None and (self.limit or SCENES) <= SCENES
        return catalog.evaluation(self.source) if drawn else None

    def answer(self, result: ImageResult) -> Answer:
        """As much of a result as is judged."""
        return Answer.of(result, self.semantic is not None, self.panoptic is not None)

    def absolute(self) -> Material:
        """The same for a process that runs elsewhere."""
        paths = (self.images, self.annotations, self.semantic, self.panoptic, self.panoptic_pictures)
        images, annotations, semantic, panoptic, pictures = (path and path.absolute() for path in paths)
        return Material(self.source, images, annotations, self.limit, semantic, panoptic, pictures)


@dataclass(frozen=True)
class Subject:
    """What is judged: the model that it came from, a sentence on what answers, the number of its classes and their names, as
    far as they are known, and a build that was left open."""

    source: str
    what: str
    classes: int | None = None
    names: tuple[str, ...] = ()
    opened: Build | None = None

    def categories(self, truth: Truth, where: Path | None) -> list[int] | None:
        """The category of each class: by name where both sides have the same names, else in the order of the ids (None).

        Raises InputError for annotations of other classes.
        """
        rows = truth.annotations["categories"]
        if not rows or self.classes is None:
            return None
        if len(rows) != self.classes:
            what = f"has {len(rows)} categories, but the network has {self.classes} classes"
            raise InputError(f"{where or 'the annotations'}: {what}")
        ids = {str(row.get("name", "")): int(row["id"]) for row in rows}
        if len(ids) == self.classes and set(ids) == set(self.names):
            return [ids[name] for name in self.names]
        if self.names and not set(ids) & set(self.names):
            raise InputError(f"{where or 'the annotations'}: is of other classes ({', '.join(list(ids)[:3])}) than the network "
                             f"({', '.join(self.names[:3])})")  # fmt: skip
        return None


def subject_of(run: str, engine: str, answers: bool = True) -> Subject:
    """What a run is; a build that answers here stays open for it. Raises InputError."""
    if is_folder(Path(run)):
        build = open_build(run, engine=engine)
        manifest, what = build.manifest, build.notice or "the build as it stands"
        if not answers:
            build.close()
        return Subject(manifest.source.model, what, manifest.classes, manifest.class_names, build if answers else None)
    catalog.resolve(run, CACHE)
    return Subject(run, "the exported graph in ONNX Runtime")


def answers_of(
    run: str, engine: str, material: Material, truth: Truth, progress: Progress, shards: int | None = None,
    opened: Build | None = None,
) -> Iterator[tuple[int, Answer]]:  # fmt: skip
    """The answer for each picture, in their order; what an interrupted evaluation has answered is not asked for again.

    Args:
        run, engine: what answers, see tools.evaluate.evaluate.
        material, truth: the pictures, and what is asked of them.
        progress: called with (images done, images in all, name of the next).
        shards: on so many tasks of a Ray cluster.
        opened: the run, where it is a build that is open; it is opened again without.

    Raises:
        InputError: a picture cannot be read, or the run cannot answer.
    """
    state = CACHE / f"eval-{_key(run, engine, material, truth, opened)}"
    files = {image_id: state / f"{image_id}.npz" for image_id in truth.ids}
    missing = {image_id for image_id, file in files.items() if not file.is_file()}
    held: dict[int, bytes] = {}  # of shards, where the cache cannot be written
    if shards is not None and missing:
        for _, part in gather(_shard, _calls(run, engine, material, sorted(missing), shards), progress):
            held |= {image_id: data for image_id, data in part if not _kept(files[image_id], data)}
        missing = set()

    def keep(found: tuple[int, ImageResult]) -> Answer:
        image_id, result = found
        answer = material.answer(result)
        _kept(files[image_id], answer.to_bytes())
        return answer

    asked = [i for i in files if i in missing]
    detector = Detector.of(opened) if opened else _detector(run, engine) if asked else None
    made = behind(keep, _results(detector, truth, asked) if detector else (), 2)
    with closing(made):
        for done, (image_id, file) in enumerate(files.items()):
            if image_id in missing:
                progress(done, len(files), truth.name(image_id))
                yield image_id, next(made)
            else:
                yield image_id, Answer.from_bytes(held.pop(image_id)) if image_id in held else _read(file)
    progress(len(files), len(files), "")
    shutil.rmtree(state, ignore_errors=True)


def _kept(file: Path, data: bytes) -> bool:
    """Whether an answer could be put into the cache."""
    try:
        write_atomically(file, data)
    except InputError:
        return False
    return True


def _read(file: Path) -> Answer:
    try:
        return Answer.from_bytes(file.read_bytes())
    except Exception as error:  # zipfile, zlib, numpy and json each raise their own kinds
        file.unlink(missing_ok=True)
        raise InputError(f"{file}: is damaged, and was removed: evaluate again") from error


def _results(detector: Detector, truth: Truth, ids: Sequence[int]) -> Iterator[tuple[int, ImageResult]]:
    """Results made now; the next picture is read meanwhile."""
    with closing(ahead((detector.load(truth.load(i)) for i in ids), 2)) as placed:
        yield from zip(ids, detector.run(placed), strict=True)


def _calls(run: str, engine: str, material: Material, ids: Sequence[int], shards: int) -> list[tuple[Any, ...]]:
    where = str(Path(run).absolute()) if Path(run).exists() else run
    parts = [list(ids[i::shards]) for i in range(shards)]
    return [(where, engine, material.absolute(), part) for part in parts if part]


def _shard(run: str, engine: str, material: Material, ids: Sequence[int]) -> tuple[list[tuple[int, bytes]], str]:
    """Runs on a worker: the answers for some pictures as bytes, or why there are none."""
    try:
        truth = material.truth()
        return [(i, material.answer(r).to_bytes()) for i, r in _results(_detector(run, engine), truth, ids)], ""
    except OnnxgraftError as error:
        return [], str(error)


def _key(run: str, engine: str, material: Material, truth: Truth, opened: Build | None) -> str:
    """What answers belong to: the run, what runs it, the pictures, and what is asked of them."""
    if is_folder(Path(run)):
        manifest = opened.manifest if opened else Manifest.read(Path(run))
        identity: Any = [digest(Path(run) / MANIFEST), manifest.sha256]
    else:
        identity = digest(catalog.resolve(run, CACHE))
    pictures = [[i, truth.name(i)] for i in truth.ids]
    asked = [material.semantic is not None, material.panoptic is not None, engine, str(material.absolute().images)]
    return hashlib.sha256(json.dumps([identity, pictures, asked]).encode()).hexdigest()[:16]


def _detector(run: str, engine: str) -> Detector:
    """What answers."""
    if is_folder(Path(run)):
        return Detector.of(open_build(run, engine=engine))
    path = catalog.resolve(run, CACHE)
    spec, _ = inspect(path)
    image, runner = spec.image, OrtRunner(path)
    preprocess = Preprocess.of(image)
    taken = ImageIO(runner.input_names[0], (3, image.height, image.width), order=preprocess.order)
    feeds = Feeder.of(GraphIO(taken), preprocess)

    def export(pictures: Iterable[Loaded]) -> Iterator[ImageResult]:
        for picture in pictures:
            placement = picture.placed[1]
            raw = from_raw_export(runner(feeds.batch([picture.placed])), spec.outputs, spec.output_forms)
            yield ImageResult(None, picture.pixels, placement, raw, to_original(raw, placement))

    return Detector(lambda pixels: Loaded(None, pixels, feeds.place(pixels)), export)
