"""Tests one row after the other; what was done before is kept."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from onnxgraft import targets
from onnxgraft.atomic import scratch
from onnxgraft.driver.compile import Build, compile
from onnxgraft.errors import OnnxgraftError, add_note
from onnxgraft.files import parsed
from onnxgraft.golden import pictures
from onnxgraft.golden.references import answers, is_thin, is_trained
from onnxgraft.options import Form as OptionForm
from onnxgraft.options import Options, Size
from onnxgraft.targets.trt.child import command_of, how_it_ended
from onnxgraft.tools import doctor
from onnxgraft.tools.benchmark.floor import floor_of
from onnxgraft.tools.benchmark.gpus import Gpu, gpu_named
from onnxgraft.tools.selftest import child, page
from onnxgraft.tools.selftest.results import Measured, Record, Result, State
from onnxgraft.tools.selftest.rows import Row, digest_of

CALIBRATION = 2  # pictures that ranges of a thin detector are measured on: its AP is not judged here
SECONDS = 1200.0  # for the process that runs a build
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class Settings:
    """How rows are tested: seconds of each way of running, pictures that answers are compared on, whether all are done anew."""

    seconds: float = 3.0
    pictures: int = 1
    again: bool = False


def selftest(rows: list[Row], folder: Path, settings: Settings, progress: Progress) -> Record:
    """Test rows, and write the record and its page after each.

    Args:
        rows: what is tested.
        folder: where selftest.json and selftest.html stand; rows that are done there, of the same things, are not done again.
        settings: how.
        progress: called with (rows done, of how many, the row that runs).

    Raises:
        InputError: the folder cannot be written, or holds another selftest.json.
    """
    before = Record.read(folder)
    done = {result.key: result for result in before.rows} if before is not None else {}
    found = doctor.examine()
    record = Record(doctor.report(found), tuple(done.values()))
    gpu = gpu_named(found.driver.gpus[0].name) if found.driver.gpus else None
    for number, row in enumerate(rows):
        progress(number, len(rows), row.key)
        made_of = _made_of(row, found)
        kept = done.get(row.key)
        if kept is None or kept.made_of != made_of or settings.again:
            with _telling(folder, number, len(rows)):
                done[row.key] = replace(try_row(row, settings, gpu), made_of=made_of)
        record = Record(record.machine, tuple(done.values()))
        record.write(folder)
    page.write(record, folder)
    progress(len(rows), len(rows), "")
    chosen = {row.key for row in rows}
    return Record(record.machine, tuple(result for result in record.rows if result.key in chosen))


@contextmanager
def _telling(folder: Path, number: int, count: int) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        add_note(stop, f"{number} of {count} rows are done and kept in {folder}: the same command goes on")
        raise


def _made_of(row: Row, found: doctor.Findings) -> str:
    state = next(state for state in found.targets if state.name == row.target)
    gpus = ", ".join(gpu.name for gpu in found.driver.gpus) if targets.get(row.target).suffix else found.system["processor"]
    return f"onnxgraft {found.system['onnxgraft']}; {state.version}; {gpus or 'no GPU'}; {row.model} {digest_of(row.model)}"


def try_row(row: Row, settings: Settings, gpu: Gpu | None) -> Result:
    """Build, run, compare and time one row. What goes wrong is in the result."""
    started = time.perf_counter()
    target = targets.get(row.target)
    unbuildable = target.available()
    if unbuildable is not None:
        return Result(row.key, "", "not built", unbuildable)
    with scratch() as folder:
        try:
            build = _built(row, folder)
        except Exception as error:  # a row that fails is what a self-test is for
            return Result(row.key, "", "BROKEN", _line(error), seconds=time.perf_counter() - started)
        engine = build.manifest.engine
        mib = build.manifest.sizes.get(engine or "", 0) / 2**20
        result = Result(row.key, "", "not run", target.can_run() or "", time.perf_counter() - started, mib)
        if not result.reason:
            result = _run(row, build, result, settings)
            if gpu is not None and result.measured is not None and target.suffix:
                result = replace(result, floor_ms=_floor(build, gpu))
    return replace(result, seconds=time.perf_counter() - started)


def _built(row: Row, folder: Path) -> Build:
    answer = next(answers(row.model))
    height, width = answer.image.shape[:2]
    calib = None
    if row.precision == "int8" and is_thin(row.model):
        calib = folder / "pictures"
        calib.mkdir()
        for seed in range(CALIBRATION):
            Image.fromarray(pictures.blocks(seed, (height, width))[..., ::-1]).save(calib / f"{seed}.png")
    form: OptionForm = "native" if row.form == "native" else "auto"
    options = Options(
        target=row.target, precision=row.precision, size=Size(height, width), calib=calib, nms=form, roi_align=form,
        deform_conv=form, checks=False, proof=False,
    )  # fmt: skip
    return compile(row.model, folder / "out", options)


def _run(row: Row, build: Build, result: Result, settings: Settings) -> Result:
    engine = "required" if build.manifest.engine is not None else "onnxruntime"
    words = command_of(
        child.__name__, str(build.folder), row.model, engine, str(settings.seconds), str(settings.pictures)
    )  # fmt: skip
    try:
        ended = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return replace(result, state="BROKEN", reason=f"did not end within {SECONDS:.0f} s")
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no reason given"])[-1]
        return replace(result, state="BROKEN", reason=f"{how_it_ended(ended.returncode)}: {last[-300:]}")
    measured = parsed(Measured, json.loads(ended.stdout.splitlines()[-1]), row.key)
    asked = row.precision == "fp32" or is_trained(row.model)  # rounding decides what seeded weights detect
    state: State = "same" if measured.same else "DIFFERS" if asked else "measured"
    return replace(result, state=state, reason="", measured=measured)


def _floor(build: Build, gpu: Gpu) -> float | None:
    try:
        floor = floor_of(build.folder)
    except OnnxgraftError:
        return None
    return 1000 * sum(floor.seconds(gpu, part) for part in floor.parts)


def _line(error: Exception) -> str:
    words = str(error) if isinstance(error, OnnxgraftError) else f"{type(error).__name__}: {error}"
    return " ".join(words.split())[:500]

