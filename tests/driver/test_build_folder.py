"""A build folder: the same bytes each time, whole or not there, and never in the place of something else."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli import assert_one_line_error, cli

import onnxgraft
from onnxgraft import InputError, Options
from onnxgraft.driver.build_folder import new_folder
from onnxgraft.manifest import TIMES

SMALL = (64, 96)
MEASURED = re.compile(rb'[\d.]+ (?:s|ms)\b|width: ?[\d.]+%|"seconds":[\d.e-]+')  # report.html shows the seconds of times.json


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a build that should not change, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != TIMES:
            data = path.read_bytes()
            data = MEASURED.sub(b"", data) if path.name == "report.html" else data
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def small_build(model: Path, folder: Path, target: str = "onnxruntime", checks: bool = True) -> onnxgraft.Build:
    return onnxgraft.compile(model, folder, Options(target=target, size=SMALL, checks=checks))


@pytest.mark.slow
def test_an_engine_built_twice_has_the_same_bytes(golden_model: Path, tmp_path: Path) -> None:
    """In two processes with different hash seeds. (NVIDIA's builder orders the outputs by their place in memory, so an
    engine that is built late in a busy process can differ in that.)"""
    for name, seed in (("a", "7"), ("b", "8")):
        command = [sys.executable, "-c", "from onnxgraft.cli.main import main; main()", "build", str(golden_model)]
        command += ["--size", "64x96", "--target", "tensorrt-rtx", "-o", name]
        subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert {"model.onnx", "model.engine", "manifest.json", "report.json", "passes/04_fix-input.diff"} <= set(first)
    assert (tmp_path / "a" / "model.engine").stat().st_size > 1_000_000
    assert first == second


def test_nothing_tells_of_the_place_it_was_built_in(golden_model: Path, tmp_path: Path) -> None:
    build = small_build(golden_model, tmp_path / "out")
    assert repr(build) == f"Build('{tmp_path}/out', no engine for onnxruntime, {len(build.report.records)} passes)"
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name != "manifest.json":  # it names the model as it was given
            assert str(tmp_path).encode() not in path.read_bytes(), path
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


STOPS = """
import signal
from onnxgraft.driver import compile as build
from onnxgraft.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits that it is ignored
write_passes = build.write_passes
def write_and_wait(folder, report):
    write_passes(folder, report)
    print("written", flush=True)
    signal.pause()
build.write_passes = write_and_wait
main()
"""


def stopped_build(model: Path, folder: Path) -> subprocess.Popen[str]:
    """A build in a process of its own that has written most of its files and waits there for a signal."""
    command = [sys.executable, "-c", STOPS, "build", str(model)]
    command += ["--size", "64x96", "--target", "onnxruntime", "-o", str(folder)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "written\n":
            assert list(folder.parent.glob(f".{folder.name}.new-*/model.onnx"))
            return process
    pytest.fail(f"the build ended: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_build_leaves_the_previous_one(how: signal.Signals, golden_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    small_build(golden_model, folder, checks=False)
    before = digests(folder)
    process = stopped_build(golden_model, folder)
    process.send_signal(how)
    _, stderr = process.communicate()
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert digests(folder) == before
    if how == signal.SIGINT:
        assert stderr == "error: interrupted; nothing was replaced\n"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_build_killed_between_its_two_renames_is_brought_back(tmp_path: Path) -> None:
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "manifest.json").write_text("{}")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out"):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "manifest.json").read_text() == "{}"


def test_a_failed_build_leaves_the_previous_one(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with new_folder(place) as folder:
        (folder / "manifest.json").write_text("1")
    with pytest.raises(ZeroDivisionError), new_folder(place) as folder:
        (folder / "manifest.json").write_text(str(1 / 0))
    assert (place / "manifest.json").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_build_replaces_an_older_one_as_a_whole(tmp_path: Path) -> None:
    for names in (("manifest.json", "old.txt"), ("manifest.json", "new.txt")):
        with new_folder(tmp_path / "out") as folder:
            for name in names:
                (folder / name).touch()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_it_takes_no_other_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for place, reason in (
        ("file", "is a file; give a folder for the build (-o)"),
        ("folder", "holds files that are no build; give an empty or a new folder (-o)"),
        ("file/sub", "cannot be written: file exists"),
    ):
        with pytest.raises(InputError) as refused, new_folder(tmp_path / place):
            pytest.fail("entered")
        assert str(refused.value) == f"{tmp_path / place}: {reason}"
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written() -> None:
    place = Path("/proc/onnxgraft/out") if os.geteuid() == 0 else Path("/onnxgraft-out")
    if not Path("/proc").is_dir():
        pytest.skip("no /proc on this system")
    with pytest.raises(InputError, match=f"^{place}: cannot be written: "), new_folder(place):
        pytest.fail("entered")


@pytest.fixture
def full_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A disk of four megabytes: the golden detector has eleven."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (that needs root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(full_disk: Path, golden_model: Path) -> None:
    (full_disk / "out").mkdir()
    (full_disk / "out" / "manifest.json").write_text("{}")
    options = ("--size", "64x96", "--target", "onnxruntime", "--no-checks", "-o", full_disk / "out")
    assert_one_line_error(cli("build", golden_model, *options), "cannot be written: no space left on device")
    assert [p.name for p in full_disk.iterdir()] == ["out"]
    assert (full_disk / "out" / "manifest.json").read_text() == "{}"
