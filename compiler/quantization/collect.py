"""Runs a network over pictures and counts what flows through it; memory does not grow with the pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxgraft.atomic import scratch
from onnxgraft.errors import InputError, Refusal
from onnxgraft.instruments.stage import feeder
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ort import open_session, told
from onnxgraft.ir.serde import write_model
from onnxgraft.pipeline.context import Context
from onnxgraft.quantization.calibration import Calibration, Key, pictures_digest
from onnxgraft.quantization.dataset import Picture
from onnxgraft.quantization.histogram import Histogram
from onnxgraft.runtime.feeds import Feeder
from onnxgraft.runtime.images import ResizeRule

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
    saved, feeds = time.monotonic(), feeder(graph, ctx, rule)
    with scratch() as folder:
        session = _session(graph, names, folder / "observed.onnx") if done < len(pictures) else None
        try:
            for chunk in _chunks(pictures[done:], ctx.batch):
                progress(done, len(pictures), chunk[0].name)
                loaded = _load(chunk, skipped)
                if loaded and session is not None:
                    _observe(session, feeds, loaded, calibration)
                done += len(chunk)
                if state is not None and time.monotonic() - saved > STATE_SECONDS:
                    _save_state(calibration, skipped, state)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if state is not None:
                _save_state(calibration, skipped, state)
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


def _save_state(calibration: Calibration, skipped: list[str], state: Path) -> None:
    calibration.skipped = list(skipped)
    calibration.save(state)


def _chunks(pictures: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


def _load(chunk: Sequence[Picture], skipped: list[str]) -> list[tuple[Picture, NDArray[np.uint8]]]:
    loaded = []
    for picture in chunk:
        try:
            loaded.append((picture, picture.load()))
        except InputError as error:
            skipped.append(str(error))
    return loaded


def _session(graph: Graph, names: Sequence[str], path: Path) -> ort.InferenceSession:
    """The graph with the tensors as its outputs, and nothing that they do not need."""
    skeleton = graph.skeleton()
    del skeleton.model.graph.output[:]
    skeleton.model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    write_model(skeleton, path)
    try:
        return open_session(path, keep_memory=False)
    except Exception as error:  # ONNX Runtime's classes share no base below Exception
        raise Refusal(f"ONNX Runtime cannot run the graph to calibrate it: {told(error)}") from None


def _observe(
    session: ort.InferenceSession,
    feeds_of: Feeder,
    loaded: Sequence[tuple[Picture, NDArray[np.uint8]]],
    calibration: Calibration,
) -> None:
    """Run one batch, filled up with its own pictures, and count every tensor."""
    images = [image for _, image in loaded]
    feeds = feeds_of([images[i % len(images)] for i in range(feeds_of.io.image.batch)])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {i.name: feeds[i.name] for i in session.get_inputs()})
    for index, name in enumerate(names):
        histogram = calibration.tensors[name]
        histogram.add(values[index])
        values[index] = None
        if histogram.bad:
            raise InputError(f"tensor {name!r} is NaN or infinite on {loaded[0][0].name}: such a network cannot be quantized")
    calibration.pictures += [(picture.name, picture.digest) for picture, _ in loaded]


def state_name(key: Key, pictures: Sequence[Picture]) -> str:
    """The file name under which the statistics of these pictures are cached."""
    return f"calibration-{key.graph[:12]}-{pictures_digest([(p.name, p.digest) for p in pictures])[:8]}.json"
