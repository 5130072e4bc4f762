"""Processes that are ended at random moments, and places where nothing can be written.

    python -m campaigns.faults --kills 200 --signals 60 --seed 1

Each command runs in a child that has imported everything already, and is sent KILL, TERM, HUP or INT after a random time.
Then nothing may be lost: what stood there is whole, or the new one is; the next run ends well and takes leftovers away.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import onnx
from helpers.small_models import MODEL

from onnxgraft.cli.main import main as program
from onnxgraft.cli.stops import WORDS
from onnxgraft.golden import catalog, scenes

BUILD = ("build", "small.onnx", "--passes", "upgrade-opset,simplify", "--target", "onnxruntime")
CLEAN = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
NAMES = ("out", "out put", "выход-出", "-o.new-x", os.fsdecode(b"by\xff\xfete"))  # of build folders


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: a signal), what it said on stderr, and its seconds."""

    code: int
    said: str
    seconds: float


def child(arguments: Sequence[str], folder: Path, how: signal.Signals | None = None, after: float = 0.0) -> Ended:
    """Run the program in a fork of this process, in `folder`; send it a signal after so many seconds."""
    said = folder / ".stderr"
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(arguments, folder, said)
    if how is not None:
        time.sleep(after)
        os.kill(pid, how)
    _, status = os.waitpid(pid, 0)
    ended = Ended(os.waitstatus_to_exitcode(status), said.read_text(errors="replace"), time.monotonic() - started)
    said.unlink()
    return ended


def _become(arguments: Sequence[str], folder: Path, said: Path) -> None:
    try:
        os.chdir(folder)
        out, err = os.open(os.devnull, os.O_WRONLY), os.open(said, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["onnxgraft", *arguments]
        program()
        sys.stdout.flush()
        os._exit(0)
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(99)


def whole_build(folder: Path) -> str:
    """"" when every file is there as its manifest says, or what is wrong."""
    try:
        held = json.loads((folder / "manifest.json").read_text())["sha256"]
        wrong = [name for name, digest in held.items() if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest]
    except (OSError, ValueError, KeyError) as error:
        return f"lost: {error!r}"
    return f"not whole: {wrong}" if wrong else ""


def leftovers(folder: Path) -> list[str]:
    """What no build should leave."""
    return sorted(name for name in os.listdir(folder) if name.startswith(".") and (".new-" in name or ".lock" in name))


class Campaign:
    """Counts what was tried, and keeps what went wrong.

    Args:
        folder: an empty folder to work in.
        seed: of the random moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        (folder / "tmp").mkdir()
        onnx.save(onnx.parser.parse_model(MODEL), folder / "small.onnx")
        (folder / "pictures").mkdir()
        for index in range(3):
            cv2.imwrite(str(folder / "pictures" / f"{index}.png"), scenes.draw(index, (48, 64))[0])

    def fault(self, what: str) -> None:
        self.faults.append(what)
        print(f"FAULT {what}", flush=True)

    def must_end_well(self, arguments: Sequence[str], what: str) -> Ended:
        ended = child(arguments, self.folder)
        if ended.code != 0:
            self.fault(f"{what}: {ended.code}: {ended.said[:300]}")
        return ended

    def stop(self, arguments: Sequence[str], seconds: float, how: signal.Signals, what: str) -> None:
        """Send one signal within `seconds`, and see that a clean one ends the command in one line."""
        ended = child(arguments, self.folder, how, self.chance.uniform(0, seconds))
        self.counts[f"{what} {how.name} {'in time' if ended.code else 'too late'}"] += 1
        if how in CLEAN and ended.code not in (0, 128 + how):
            if ended.code != -how:  # it came before the program could listen
                self.fault(f"{what} {how.name}: exit code {ended.code}: {ended.said[:300]}")
        elif how in CLEAN and ended.code and ended.said.splitlines()[-1:] != [f"error: {WORDS}"]:
            self.fault(f"{what} {how.name}: said {ended.said[:300]!r}")

    def builds(self, signals: Sequence[signal.Signals]) -> None:
        """A build over a build: one of the two stands there, whole; leftovers go with the next."""
        for index, how in enumerate(signals):
            name = NAMES[index % len(NAMES)]
            place = self.folder / f"builds {index % len(NAMES)}" / name
            place.parent.mkdir(exist_ok=True)
            command = [*BUILD, f"--output={place}"]
            if not place.exists():
                self.seconds = self.must_end_well(command, f"build {index}").seconds
            before = leftovers(place.parent)  # of a kill: this one may end before it takes them away
            self.stop(command, 1.1 * self.seconds, how, "build")
            wrong = whole_build(place)
            if wrong:
                self.fault(f"build {index} {how.name}: {wrong}")
            if how in CLEAN and set(leftovers(place.parent)) - set(before):
                self.fault(f"build {index} {how.name} left {leftovers(place.parent)}")
            if index % 5 == 4 or wrong:
                self.must_end_well(command, f"build after {index}")
                if leftovers(place.parent):
                    self.fault(f"build after {index} left {leftovers(place.parent)}")

    def command(self, what: str, arguments: Sequence[str], signals: Sequence[signal.Signals], whole: Callable[[], str]) -> None:
        """A command that writes files: none is half-written, and it ends well afterwards."""
        if not signals:
            return
        seconds = self.must_end_well(arguments, what).seconds
        for how in signals:
            self.stop(arguments, 1.1 * seconds, how, what)
            if wrong := whole():
                self.fault(f"{what} {how.name}: {wrong}")
        self.must_end_well(arguments, f"{what} in the end")
        if left := [name for name in os.listdir(self.folder / "tmp") if name.startswith("onnxgraft-")]:
            self.fault(f"{what} left {left}")

    def detector(self, infers: Sequence[signal.Signals], calibrations: Sequence[signal.Signals]) -> None:
        """infer and calibrate with the golden detector at a small size."""
        build = ["build", "mask_rcnn", "--size", "64x96", "--target", "onnxruntime", "--no-checks", "-o", "detector"]
        if infers:
            self.must_end_well(build, "build of the detector")
        pictures = [f"pictures/{index}.png" for index in range(3)]
        found = ["infer", "detector", *pictures, "--json", "found.json", "--draw", "drawn"]
        self.command("infer", found, infers, self._whole_found)
        measured = ["calibrate", "mask_rcnn", "--images", "pictures", "--size", "64x96", "-o", "c.json"]
        self.command("calibrate", measured, calibrations, self._whole_calibration)

    def _whole_found(self) -> str:
        held = [*self.folder.glob("drawn/*.png"), self.folder / "found.json"]
        if len(json.loads(held[-1].read_text())) != 3:
            return "found.json is not whole"
        return "; ".join(f"{path.name} is not whole" for path in held[:-1] if cv2.imread(str(path)) is None)

    def _whole_calibration(self) -> str:
        place = self.folder / "c.json"
        wrong = "" if not place.exists() or json.loads(place.read_text())["images"] else "c.json is not whole"
        place.unlink(missing_ok=True)
        return wrong

    def cache(self, kills: int) -> None:
        """Two processes make the same file of the cache at once, one of them killed: it is whole, or not there."""
        name = next(n for n in catalog.names() if (catalog.folder(n) / "model.onnx.xz").is_file())
        whole = hashlib.sha256(catalog.resolve(name, self.folder / "reference").read_bytes()).hexdigest()
        for _ in range(kills):
            pids = []
            for _ in range(2):
                pids.append(os.fork())
                if pids[-1] == 0:
                    catalog.resolve(name, self.folder / "cache")
                    os._exit(0)
            time.sleep(self.chance.uniform(0, 0.4))
            os.kill(pids[0], signal.SIGKILL)
            for pid in pids:
                os.waitpid(pid, 0)
            self.counts["cache SIGKILL"] += 1
            for path in (self.folder / "cache").glob("*.onnx"):
                if hashlib.sha256(path.read_bytes()).hexdigest() != whole:
                    self.fault(f"{path.name} is not whole")
                path.unlink()

    def two_at_once(self, times: int) -> None:
        """Two builds of one folder: one is told to wait, or both end well one after the other."""
        command = [*BUILD, "-o", "both"]
        for _ in range(times):
            pids = []
            for index in range(2):
                pid = os.fork()
                if pid == 0:
                    _become(command, self.folder, self.folder / f".stderr{index}")
                pids.append(pid)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            told = [(self.folder / f".stderr{index}").read_text() for index in range(2)]
            self.counts[f"two at once: {sorted(codes)}"] += 1
            stopped = [said for code, said in zip(codes, told, strict=True) if code]
            if len(stopped) == 2 or any("another build is writing it" not in said for said in stopped):
                self.fault(f"two at once: {codes} {told}")
            if wrong := whole_build(self.folder / "both"):
                self.fault(f"two at once: {wrong}")

    def places(self) -> None:
        """Where nothing can be written, one line says so and nothing is left."""
        (self.folder / "file").write_text("mine")
        for place in ("/proc/x/out", "file", "file/out", "/", ".", "..", "a" * 300, "/dev/null/x", "pictures"):
            self._refused([*BUILD, "-o", place])
        self._refused(["infer", "detector", "pictures/0.png", "--json", "/proc/x.json"])
        self._refused(["calibrate", "mask_rcnn", "--images", "pictures", "--size", "64x96", "-o", "/proc/c.json"])

    def _refused(self, arguments: Sequence[str]) -> None:
        ended = child(arguments, self.folder)
        self.counts["places"] += 1
        line = ended.said.rstrip("\n")
        if ended.code != 1 or "\n" in line or not line.startswith("error: ") or "fault of onnxgraft" in line:
            self.fault(f"{arguments[-1][:40]}: {ended.code}: {ended.said[:300]}")


def campaign(kills: int, signals: int, seed: int, detector: bool = True) -> Campaign:
    """Run all of it with so many kills and clean signals; without `detector`, what needs one is left out."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        done = Campaign(Path(folder), seed)
        ends = [signal.SIGKILL] * kills + [CLEAN[i % len(CLEAN)] for i in range(signals)]
        done.chance.shuffle(ends)
        share = len(ends) // 8 if detector else 0
        done.builds(ends[2 * share :])
        if detector:
            done.detector(ends[:share], ends[share : 2 * share])
        done.cache(max(1, kills // 20))
        done.two_at_once(max(1, kills // 20))
        done.places()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description="End commands at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--light", action="store_true", help="leave out what needs a detector")
    args = parser.parse_args()
    done = campaign(args.kills, args.signals, args.seed, not args.light)
    for what, count in sorted(done.counts.items()):
        print(f"{count:5} {what}")
    print(f"seed {args.seed}: {sum(done.counts.values())} attempts, {len(done.faults)} faults")
    sys.exit(bool(done.faults))


if __name__ == "__main__":
    main()
