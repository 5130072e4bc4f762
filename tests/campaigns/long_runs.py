"""Long runs hold their memory: infer, calibrate, and a session that is called again and again.

    python -m campaigns.long_runs --infer 10000 --calibrate 2000 --calls 1000

Memory is what the process has in RAM. It may grow while the first fifth of a run fills caches and pools; from there to the
end it may grow by SLACK, whatever the number of pictures.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from onnxgraft import Options, Size, compile
from onnxgraft.driver.compile import Build
from onnxgraft.golden import catalog, scenes
from onnxgraft.quantization.calibrate import calibrate
from onnxgraft.runtime.session import Session
from onnxgraft.tools.infer import Outputs, infer

SLACK = 8 << 20  # bytes
CANVAS = Size(64, 96)
PICTURES = 16  # files, to which all names lead
DETECTOR = "retinanet_thin"


class Watch:
    """Resident memory in the course of a run of so many steps."""

    def __init__(self, what: str, steps: int) -> None:
        self.what, self.steps = what, steps
        self.seen: list[int] = []
        self.started = time.monotonic()

    def step(self) -> None:
        """Call it at each step."""
        self.seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    @property
    def growth(self) -> int:
        """Bytes by which the last fifth has more than the second one, each at its highest."""
        fifth = len(self.seen) // 5
        return max(self.seen[-fifth:]) - max(self.seen[fifth : 2 * fifth])

    def __str__(self) -> str:
        held = f"{max(self.seen) >> 20} MiB at most, {self.growth / 2**20:+.1f} MiB from the second fifth to the last"
        return f"{self.what}: {len(self.seen)} of {self.steps} steps, {held} ({time.monotonic() - self.started:.0f} s)"


def pictures(folder: Path, count: int) -> Path:
    """A folder of so many links to a few small drawn pictures of several sizes."""
    (folder / "links").mkdir()
    for index in range(PICTURES):
        cv2.imwrite(str(folder / f"{index}.png"), scenes.draw(index, (48 + index, 90 - index))[0])
    for index in range(count):
        (folder / "links" / f"{index:06d}.png").symlink_to(folder / f"{index % PICTURES}.png")
    return folder / "links"


def many_pictures(build: Build, folder: Path, count: int) -> Watch:
    """infer with JSON and drawn pictures."""
    watch, home = Watch("infer", count), build.folder.parent
    outputs = Outputs(json_file=home / "found.json", drawn=home / "drawn", min_score=0.0, limit=count)
    infer(build.folder, [folder], outputs, progress=lambda *_: watch.step())
    return watch


def many_statistics(model: Path, folder: Path, count: int, home: Path) -> Watch:
    watch = Watch("calibrate", count)
    options = Options(size=CANVAS)
    calibrate(str(model), home / "c.json", folder, limit=count, options=options, progress=lambda *_: watch.step())
    return watch


def many_calls(build: Build, count: int) -> Watch:
    """One session that answers for arrays, and is opened anew at every hundredth call."""
    watch, image = Watch("session", count), np.zeros((60, 80, 3), np.uint8)
    for index in range(count):
        if index % 100 == 0:
            session = Session(build.folder)
        list(session.run([image]))
        watch.step()
    return watch


def runs(home: Path, counts: tuple[int, int, int]) -> Iterator[Watch]:
    """All three, each as soon as it is done; a count of 0 leaves one out."""
    files = pictures(home, max(counts))
    model = catalog.resolve(DETECTOR, home / "cache")
    build = compile(model, home / "out", Options(size=CANVAS, target="onnxruntime", proof=False, checks=False))
    if counts[0]:
        yield many_pictures(build, files, counts[0])
    if counts[1]:
        yield many_statistics(model, files, counts[1], home)
    if counts[2]:
        yield many_calls(build, counts[2])


def main() -> None:
    parser = argparse.ArgumentParser(description="See that long runs hold their memory.")
    parser.add_argument("--infer", type=int, default=10_000, help="pictures")
    parser.add_argument("--calibrate", type=int, default=2_000, help="pictures")
    parser.add_argument("--calls", type=int, default=1_000, help="of a session")
    args = parser.parse_args()
    grown = 0
    with tempfile.TemporaryDirectory() as folder:
        for watch in runs(Path(folder), (args.infer, args.calibrate, args.calls)):
            print(watch, flush=True)
            grown += watch.growth > SLACK
    sys.exit(grown)


if __name__ == "__main__":
    main()
