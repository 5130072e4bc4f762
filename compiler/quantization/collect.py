"""Runs a network over pictures and counts what flows through it; memory does not grow with the pictures."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxgraft.atomic import scratch
from onnxgraft.errors import InputError, Refusal, add_note
from onnxgraft.instruments.stage import feeder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ort import open_session, told
from onnxgraft.ir.writing import write_model
from onnxgraft.pipeline.context import Context
from onnxgraft.quantization.calibration import Calibration, Key, pictures_digest
from onnxgraft.quantization.dataset import Picture
from onnxgraft.quantization.histogram import QUICKEST, Histogram
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.images import ResizeRule

_COUNTERS = min(4, os.cpu_count() or 1)
STATE_SECONDS = 10.0  # at most this much work is lost when the process is killed
Progress = Callable[[int, int, str], None]


def collect(
    graph: Graph,
    ctx: Context,
    names: Sequence[str],
    key: Key,
    pictures: Sequence[Picture],
    state: Path | None = None,
    progress: Progress = lambda done, total, name: None,
    rule: ResizeRule | None = None,
) -> Calibration:
    """Statistics of the tensors `names` over the pictures.

    Args:
        graph: the fp32 graph, runnable in ONNX Runtime.
        ctx: its context; says how the input wants its pixels.
        names: tensors to measure.
        key: what the statistics belong to.
        pictures: what to run; unreadable ones are left out and noted.
        state: file that holds the statistics so far, so that an interrupted run goes on where it was; removed at the end.
        progress: called with (pictures done, pictures in all, name of the next).
        rule: how pictures are resized; detectron2's default without it.

    Raises:
        InputError: no picture could be read, a tensor is NaN or infinite, or `state` cannot be written.
    """
    calibration, skipped, done = _resume(state, key, names, pictures)
    kept, feeds = _Kept(state, done, len(pictures)), feeder(graph, ctx, rule)
    with scratch() as folder:
        session = _session(graph, names, folder / "observed.onnx") if done < len(pictures) else None
        try:
            for chunk in _chunks(pictures[done:], ctx.batch):
                progress(done, len(pictures), chunk[0].name)
                loaded, unreadable = _load(chunk)
                values = _run(session, feeds, loaded) if loaded and session is not None else {}
                kept.whole = False
                _count(values, loaded, calibration)
                skipped += unreadable
                done += len(chunk)
                kept.whole = True
                kept.now_and_then(calibration, skipped, done)
        except KeyboardInterrupt as stop:
            kept.tell(stop, calibration, skipped, done)
            raise
    progress(done, len(pictures), "")
    calibration.skipped = sorted(skipped)
    if not calibration.pictures:
        raise InputError(f"none of the {len(pictures)} calibration images can be read: {skipped[0]}")
    if state is not None:
        state.unlink(missing_ok=True)
    return calibration


def _resume(
    state: Path | None, key: Key, names: Sequence[str], pictures: Sequence[Picture]
) -> tuple[Calibration, list[str], int]:
    """Statistics so far, unreadable pictures so far, and how many pictures both are of."""
    fresh = Calibration(key, tensors={name: Histogram() for name in names}), list[str](), 0
    if state is None or not state.is_file():
        return fresh
    try:
        held = Calibration.load(state)
    except InputError:
        return fresh
    done = len(held.pictures) + len(held.skipped)
    seen = [(p.name, p.digest) for p in pictures[:done]]
    return fresh if held.unusable(key, names, seen) else (held, held.skipped, done)


class _Kept:
    """The statistics so far in a file, so that another run goes on from there.

    Attributes:
        done: of how many pictures they are.
        at: when they were written; seconds of the monotonic clock.
        whole: False while some tensors have counted a picture and others not.
    """

    def __init__(self, state: Path | None, done: int, total: int) -> None:
        self.state, self.done, self.total = state, done, total
        self.at, self.whole = time.monotonic(), True

    def save(self, calibration: Calibration, skipped: list[str], done: int) -> None:
        """Raises InputError: the file cannot be written."""
        if self.state is not None:
            calibration.skipped = list(skipped)
            calibration.save(self.state, QUICKEST)
            self.at, self.done = time.monotonic(), done

    def now_and_then(self, calibration: Calibration, skipped: list[str], done: int) -> None:
        """Save, unless that was a moment ago. Raises InputError."""
        if time.monotonic() - self.at > STATE_SECONDS:
            self.save(calibration, skipped, done)

    def tell(self, stop: BaseException, calibration: Calibration, skipped: list[str], done: int) -> None:
        """Save at an interrupt, if that makes sense, and say with it what is kept. Raises InputError."""
        if self.whole:
            self.save(calibration, skipped, done)
        if self.state is not None and self.done:
            add_note(stop, f"{self.state} keeps {self.done} of {self.total} images: the same command goes on from there")


def _chunks(pictures: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


def _load(chunk: Sequence[Picture]) -> tuple[list[tuple[Picture, NDArray[np.uint8]]], list[str]]:
    """The pictures that can be read, and why the others cannot."""
    loaded, unreadable = [], []
    for picture in chunk:
        try:
            loaded.append((picture, picture.load()))
        except InputError as error:
            unreadable.append(str(error))
    return loaded, unreadable


def _session(graph: Graph, names: Sequence[str], path: Path) -> ort.InferenceSession:
    """The graph with the tensors as its outputs, and nothing that they do not need."""
    skeleton = graph.skeleton()
    del skeleton.model.graph.output[:]
    skeleton.model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    write_model(skeleton, path)
    try:
        return open_session(path)
    except Exception as error:  # ONNX Runtime's classes share no base below Exception
        raise Refusal(f"ONNX Runtime cannot run the graph to calibrate it: {told(error)}") from None


def _run(
    session: ort.InferenceSession, feeds_of: Feeder, loaded: Sequence[tuple[Picture, NDArray[np.uint8]]]
) -> dict[str, NDArray[Any]]:
    """Every tensor on one batch, filled up with its own pictures."""
    images = [image for _, image in loaded]
    feeds = feeds_of([images[i % len(images)] for i in range(feeds_of.io.image.batch)])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {i.name: feeds[i.name] for i in session.get_inputs()}), strict=True))


def _count(
    values: dict[str, NDArray[Any]], loaded: Sequence[tuple[Picture, NDArray[np.uint8]]], calibration: Calibration
) -> None:
    """Add the tensors to the statistics, several at a time; each is dropped when it has been counted."""
    names = list(values)
    with ThreadPoolExecutor(_COUNTERS) as pool:  # NumPy counts without Python's lock
        deque(pool.map(lambda name: calibration.tensors[name].add(values.pop(name)), names), maxlen=0)
    for name in names:
        if calibration.tensors[name].bad:
            raise InputError(f"tensor {name!r} is NaN or infinite on {loaded[0][0].name}: such a network cannot be quantized")
    calibration.pictures += [(picture.name, picture.digest) for picture, _ in loaded]


def state_name(key: Key, pictures: Sequence[Picture]) -> str:
    """The file name under which the statistics of these pictures are cached."""
    return f"calibration-{key.graph[:12]}-{pictures_digest([(p.name, p.digest) for p in pictures])[:8]}.json"
