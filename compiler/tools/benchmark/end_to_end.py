"""From a picture file to its answer: what each step takes, beside the network alone."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from onnxgraft.atomic import scratch
from onnxgraft.golden import scenes
from onnxgraft.runtime import results
from onnxgraft.runtime.images import read_image
from onnxgraft.runtime.postprocess import to_original
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import Session
from onnxgraft.tools.benchmark.process import Rows, measure

STEPS = ("decode", "resize and place", "network", "read and move", "paste and encode", "JSON")
NETWORK = STEPS.index("network")


def end_to_end(run: Path, pictures: int = 5, progress: Callable[[str], None] = lambda _: None) -> Rows:
    """A table: milliseconds a picture of each step, median over drawn scenes written as JPEG, and its share of the whole.

    Args:
        run: a build folder.
        pictures: how many are counted.
        progress: called with a word on what runs.
    """
    Session(run)  # tells here what is wrong with it
    progress(f"{run}, {pictures} pictures")
    times: list[list[float]] = measure(f"{__name__}:of_pictures", run, pictures).result
    whole = [sum(each) for each in times]
    total = statistics.median(whole)
    rows: Rows = [("step", "ms (median)", "share")]
    for number, step in enumerate(STEPS):
        found = statistics.median(each[number] for each in times)
        rows.append((step, f"{found:.1f}", f"{found / total:.1%}"))
    share = statistics.median(each[NETWORK] / all_ for each, all_ in zip(times, whole, strict=True))
    rows += [("all", f"{total:.1f}", ""), ("pictures per second / the network's own", f"{share:.2f}", "")]
    return rows


def of_pictures(run: str, pictures: str) -> Callable[[], list[list[float]]]:
    """The rounds of `end_to_end`: milliseconds of each step, of each picture."""
    session = Session(run)
    encoded = [cv2.imencode(".jpg", scenes.scene(i % 6))[1].tobytes() for i in range(int(pictures) + 1)]

    def rounds() -> list[list[float]]:
        with scratch() as folder:
            path = folder / "picture.jpg"
            times = []
            for data in encoded:
                path.write_bytes(data)
                times.append(_one(session, path))
        return times[1:]  # the first warms up

    return rounds


def _one(session: Session, path: Path) -> list[float]:
    """Milliseconds of each of STEPS."""
    ends = [time.perf_counter()]

    def done(value: Any) -> Any:
        ends.append(time.perf_counter())
        return value

    picture = done(read_image(path))
    placed = done(session.place(picture))
    outputs = done(session.run_feeds(session.feeds([placed], [path])))
    found = done(to_original(from_outputs(outputs, session.manifest.io), placed[1]))
    entry = done(results.to_json(path, found))
    done(json.dumps(entry))
    return [(end - start) * 1000 for start, end in itertools.pairwise(ends)]
