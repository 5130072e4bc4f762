"""Processes that are ended at random moments, and places where nothing can be written.

    python -m campaigns.faults --kills 200 --signals 60 --seed 1

Each command runs in a child that has imported everything already, and is sent KILL, TERM, HUP or INT after a random time; a
signal that came when the command had ended is sent again to another run. Then nothing may be lost: what stood there is
whole, or the new one is; the next run ends well and takes leftovers away; what was started goes no further.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import shutil
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

from campaigns import places
from campaigns.processes import CLEAN, Ended, adopt, child, lingering, start
from onnxgraft.cli.main import app
from onnxgraft.cli.stops import WORDS
from onnxgraft.golden import catalog, scenes

BUILD = ("build", "small.onnx", "--passes", "upgrade-opset,simplify", "--no-proof")
NAMES = ("out", "out put", "выход-出", "-o.new-x", "line\nbreak", os.fsdecode(b"by\xff\xfete"))  # of build folders
DETECTOR, SIZE = "semantic_fpn_thin", ("--size", "64x96")
CALIBRATE = ("calibrate", DETECTOR, "--images", "pictures", *SIZE, "-o", "c.json")
TRIES = 40  # runs until a signal comes in time


@dataclass(frozen=True)
class Command:
    """A command that is ended.

    Attributes:
        arguments: of the program.
        whole: "", or what of its results is not as it should be, however it ended.
        before: makes a run do the work again.
    """

    arguments: tuple[str, ...]
    whole: Callable[[], str]
    before: Callable[[], object] = lambda: None


def whole_build(folder: Path) -> str:
    """"" when every file is there as its manifest says, or what is wrong."""
    try:
        held = json.loads((folder / "manifest.json").read_text())["sha256"]
        wrong = [name for name, digest in held.items() if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest]
    except (OSError, ValueError, KeyError) as error:
        return f"lost: {error!r}"
    return f"not whole: {wrong}" if wrong else ""


def leftovers(folder: Path) -> list[str]:
    """What no command should leave."""
    words = ".new-", ".lock", ".part", ".old"
    return sorted(name for name in os.listdir(folder) if name.startswith(".") and any(word in name for word in words))


class Campaign:
    """Counts what was tried, and keeps what went wrong.

    Args:
        folder: an empty folder to work in.
        seed: of the random moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.ended: Counter[signal.Signals] = Counter()
        self.faults: list[str] = []
        self.seconds: dict[tuple[str, ...], float] = {}
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        for name in ("tmp", "pictures", "labels"):
            (folder / name).mkdir()
        onnx.save(onnx.parser.parse_model(MODEL), folder / "small.onnx")
        for index in range(3):
            picture = scenes.draw(index, (48, 64))[0]
            cv2.imwrite(str(folder / "pictures" / f"{index}.png"), picture)
            cv2.imwrite(str(folder / "labels" / f"{index}.png"), picture[..., 0] % 5)
        adopt()

    def fault(self, what: str) -> None:
        self.faults.append(what)
        print(f"FAULT {what}", flush=True)

    def must_end_well(self, arguments: Sequence[str], what: str) -> Ended:
        ended = child(arguments, self.folder)
        if ended.code != 0:
            self.fault(f"{what}: {ended.code}: {ended.said[:300]}")
        return ended

    def stop(self, what: str, command: Command, how: signal.Signals) -> None:
        """Send one signal at a random moment, and see that a clean one ends the command in one line."""
        for _ in range(TRIES):
            command.before()
            ended = child(command.arguments, self.folder, how, self.chance.uniform(0, self.seconds[command.arguments]))
            if lingering():
                self.fault(f"{what} {how.name}: something that it started went on")
            if ended.in_time:
                break
            self.counts[f"{what} {how.name} after its end (not counted)"] += 1
            if ended.code:
                self.fault(f"{what}: {ended.code}: {ended.said[:300]}")
        self.counts[f"{what} {how.name}"] += ended.in_time
        self.ended[how] += ended.in_time
        if how in CLEAN and ended.in_time and ended.code != -how:  # -how: it came before the program could listen
            last = ended.said.splitlines()[-1:]
            if ended.code != 128 + how or not last or not last[0].startswith(f"error: {WORDS}"):
                self.fault(f"{what} {how.name}: exit code {ended.code}: {ended.said[:300]}")

    def measure(self, command: Command, what: str) -> None:
        command.before()
        self.seconds[command.arguments] = self.must_end_well(command.arguments, what).seconds

    def builds(self, what: str, more: tuple[str, ...], signals: Sequence[signal.Signals]) -> None:
        """A build over a build: one of the two stands there, whole; leftovers go with the next."""
        for index, how in enumerate(signals):
            name = NAMES[index % len(NAMES)]
            place = self.folder / f"{what} {index % len(NAMES)}" / name
            place.parent.mkdir(exist_ok=True)
            command = Command((*BUILD, *more, f"--output={place}"), lambda place=place: whole_build(place))  # type: ignore[misc]
            if not place.exists():
                self.measure(command, f"{what} {index}")
            before = leftovers(place.parent)  # of a kill: this one may end before it takes them away
            self.stop(what, command, how)
            if wrong := command.whole():
                self.fault(f"{what} {index} {how.name}: {wrong}")
            if how in CLEAN and set(leftovers(place.parent)) - set(before):
                self.fault(f"{what} {index} {how.name} left {leftovers(place.parent)}")
            if index % 5 == 4 or wrong:
                self.must_end_well(command.arguments, f"{what} after {index}")
                if leftovers(place.parent):
                    self.fault(f"{what} after {index} left {leftovers(place.parent)}")

    def command(self, what: str, command: Command, signals: Sequence[signal.Signals]) -> None:
        """A command that writes files: none is half-written, and it ends well afterwards and leaves nothing."""
        if not signals:
            return
        self.measure(command, what)
        for how in signals:
            self.stop(what, command, how)
            if wrong := command.whole():
                self.fault(f"{what} {how.name}: {wrong}")
        self.must_end_well(command.arguments, f"{what} in the end")
        left = [name for name in os.listdir(self.folder / "tmp") if name.startswith("onnxgraft-")]
        if left := [*left, *leftovers(self.folder)]:
            self.fault(f"{what} left {left}")

    def commands(self) -> dict[str, Command]:
        """What is run with a detector, which is built first."""
        self.must_end_well(["build", DETECTOR, *SIZE, "--target", "onnxruntime", "--no-proof", "-o", "detector"], "detector")
        pictures = tuple(f"pictures/{index}.png" for index in range(3))
        self.must_end_well([*CALIBRATE[:-1], "reference.json"], "calibrate")
        found = {
            "infer": Command(("infer", "detector", *pictures, "--json", "found.json", "--draw", "drawn"), self._whole_found),
            "calibrate": Command(CALIBRATE, self._whole_calibration, lambda: (self.folder / "c.json").unlink(missing_ok=True)),
            "eval": Command(
                ("eval", "detector", "--images", "pictures", "--semantic", "labels", "--json", "figures.json"),
                lambda: "" if "semantic" in (self.folder / "figures.json").read_text() else "figures.json is not whole",
            ),
        }
        if any(command.name == "package" for command in app.registered_commands):
            found["package"] = Command(("package", "detector", "--triton", "packed", "--name", "it"), lambda: "")
        return found

    def _whole_found(self) -> str:
        held = [*self.folder.glob("drawn/*.png"), self.folder / "found.json"]
        if len(json.loads(held[-1].read_text())) != 3:
            return "found.json is not whole"
        return "; ".join(f"{path.name} is not whole" for path in held[:-1] if cv2.imread(str(path)) is None)

    def _whole_calibration(self) -> str:
        """What an interrupted run left goes on to the very bytes of a run that nobody interrupted."""
        if not (self.folder / "c.json").exists() and self.chance.random() < 0.3:
            self.must_end_well(CALIBRATE, "calibrate again")
            same = (self.folder / "c.json").read_bytes() == (self.folder / "reference.json").read_bytes()
            return "" if same else "c.json has other statistics after an interrupt"
        return ""

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
            self.counts["cache shared with one that is killed"] += 1
            for path in (self.folder / "cache").glob("*.onnx"):
                if hashlib.sha256(path.read_bytes()).hexdigest() != whole:
                    self.fault(f"{path.name} is not whole")
                path.unlink()

    def two_at_once(self, times: int) -> None:
        """Two builds of one folder: one is told to wait, or both end well one after the other."""
        command = [*BUILD, "--target", "onnxruntime", "-o", "both"]
        for _ in range(times):
            said = [self.folder / f".stderr{index}" for index in range(2)]
            pids = [start(command, self.folder, file) for file in said]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            told = [file.read_text() for file in said]
            self.counts[f"two at once: {sorted(codes)}"] += 1
            stopped = [line for code, line in zip(codes, told, strict=True) if code]
            if len(stopped) == 2 or any("another build is writing it" not in line for line in stopped):
                self.fault(f"two at once: {codes} {told}")
            if wrong := whole_build(self.folder / "both"):
                self.fault(f"two at once: {wrong}")


def campaign(kills: int, signals: int, seed: int, detector: bool = True) -> Campaign:
    """Run all of it with so many kills and clean signals; without `detector`, what needs one is left out."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        done = Campaign(Path(folder), seed)
        ends = [signal.SIGKILL] * kills + [CLEAN[i % len(CLEAN)] for i in range(signals)]
        done.chance.shuffle(ends)
        commands = done.commands() if detector else {}
        share = len(ends) // 8
        for name, command in commands.items():
            done.command(name, command, [ends.pop() for _ in range(share)])
        if detector and importlib.util.find_spec("tensorrt_rtx"):
            done.builds("engine", ("--target", "tensorrt-rtx"), [ends.pop() for _ in range(share // 2)])
        done.builds("build", ("--target", "onnxruntime"), ends)
        done.cache(max(1, kills // 20))
        done.two_at_once(max(1, kills // 20))
        places.everywhere(done.folder, bool(commands), done.counts, done.fault)
        shutil.rmtree(done.folder / "tmp")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description="End commands at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--light", action="store_true", help="leave out what needs a detector, and engines")
    args = parser.parse_args()
    done = campaign(args.kills, args.signals, args.seed, not args.light)
    for what, count in sorted(done.counts.items()):
        print(f"{count:5} {what}")
    kills, signals = done.ended[signal.SIGKILL], sum(done.ended[how] for how in CLEAN)
    print(f"seed {args.seed}: {kills} kills and {signals} signals in time, {len(done.faults)} faults")
    sys.exit(bool(done.faults))


if __name__ == "__main__":
    main()
