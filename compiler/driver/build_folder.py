"""A build as a folder on disk: made whole beside its place, then put there in one step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxgraft.errors import InputError, os_reason
from onnxgraft.files import write_json
from onnxgraft.manifest import MANIFEST
from onnxgraft.pipeline.record import Report
from onnxgraft.report.reader import REPORT


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `place` when the block ends well; else nothing changes.

    Raises:
        InputError: the place is a file, is a folder that holds no build, cannot be written, or the disk is full.
    """
    place = place.absolute()
    _recover(place)
    if place.exists() and not place.is_dir():
        raise InputError(f"{place}: is a file; give a folder for the build (-o)")
    if place.is_dir() and any(place.iterdir()) and not (place / MANIFEST).exists():
        raise InputError(f"{place}: holds files that are no build; give an empty or a new folder (-o)")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.new-", dir=place.parent))
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {os_reason(error)}") from error
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        _swap(temporary, place)
    except OSError as error:
        raise InputError(f"{place}: cannot be written: {os_reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}.old")
    if place.exists():
        os.rename(place, old)
    os.rename(new, place)
    shutil.rmtree(old, ignore_errors=True)


def _recover(place: Path) -> None:
    """A build killed between the two renames of `_swap` left the previous one aside."""
    old = place.with_name(f".{place.name}.old")
    if old.is_dir() and not place.exists():
        os.rename(old, place)


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
