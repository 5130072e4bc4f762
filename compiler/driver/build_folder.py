"""A build as a folder on disk: made whole beside its place, then put there in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxgraft import atomic
from onnxgraft.errors import InputError, os_reason
from onnxgraft.files import write_json
from onnxgraft.manifest import is_build
from onnxgraft.pipeline.record import Report
from onnxgraft.report.reader import REPORT


@contextmanager
def new_folder(
    place: Path, ours: Callable[[Path], bool] = is_build, what: str = "build", flag: str = "-o"
) -> Iterator[Path]:
    """A temporary folder that takes the place of `place` when the block ends well; else nothing changes.

    A symbolic link stays and the folder that it names is replaced. What killed builds of this place left is removed.

    Args:
        place: the folder.
        ours: whether a folder holds what may be replaced.
        what: its name, for messages.
        flag: the option that names the folder, for messages.

    Raises:
        InputError: the place is a file, is a folder that holds no build, is the current folder, is written by another
            build, cannot be written, or the disk is full.
    """
    with _as_input_error(place.absolute()):
        place = _resolved(place)
        _refuse_current(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = atomic.lock_beside(place)
        descriptor = atomic.lock(lock)
        if descriptor is None:
            writer = atomic.owner(lock)
            raise InputError(f"{place}: another {what} is writing it (process {writer}); wait, or give another {flag}")
        try:
            atomic.collect_beside(place)
            _refuse_foreign(place, ours, what, flag)
            temporary = atomic.new_beside(place)
            try:
                with _reading_excepted(temporary):
                    yield temporary
                os.chmod(temporary, 0o777 & ~atomic.umask())
                atomic.swap(temporary, place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        finally:
            atomic.unlock(descriptor, lock)


@contextmanager
def _as_input_error(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {os_reason(error)}") from error


@contextmanager
def _reading_excepted(temporary: Path) -> Iterator[None]:
    """What fails at a file that is not the build's own is told of that file."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, (str, bytes)) and temporary not in Path(os.fsdecode(error.filename)).parents:
            raise InputError(f"{os.fsdecode(error.filename)[:200]}: {os_reason(error)}") from error
        raise


def _resolved(place: Path) -> Path:
    try:
        return place.resolve()
    except RuntimeError as error:  # Python before 3.13 says so of a loop of links
        raise InputError(f"{place}: is a loop of symbolic links; give a folder for the build (-o)") from error


def _refuse_current(place: Path) -> None:
    here = Path.cwd()
    if place == here or place in here.parents:
        raise InputError(f"{place}: you are in this folder, and a build replaces its folder as a whole; give another one (-o)")


def _refuse_foreign(place: Path, ours: Callable[[Path], bool], what: str, flag: str) -> None:
    if place.exists() and not place.is_dir():
        raise InputError(f"{place}: is a file; give a folder for the {what} ({flag})")
    if place.is_dir() and any(place.iterdir()) and not ours(place):
        raise InputError(f"{place}: holds files that are no {what}; give an empty or a new folder ({flag})")


def write_passes(folder: Path, report: Report) -> None:
    """passes/NN_name.txt, the graph after each pass, and passes/NN_name.diff; 00_input.txt is what came in."""
    passes = folder / "passes"
    passes.mkdir(exist_ok=True)
    if report.records:
        (passes / "00_input.txt").write_text(report.records[0].before)
    for record in report.records:
        stem = f"{record.index:02d}_{record.name}"
        (passes / f"{stem}.txt").write_text(record.after)
        (passes / f"{stem}.diff").write_text(record.diff)


def write_report_json(folder: Path, report: Report) -> None:
    """report.json: what each pass did, without seconds (times.json has them), and the notes. Raises InputError."""
    content = report.to_dict()
    for row in content["passes"]:
        del row["seconds"]
    write_json(folder / REPORT, content)
