"""A build folder: the same bytes each time, whole or not there, and never in the place of something else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers.cli import assert_one_line_error, cli
from helpers.pages import data_of

import onnxgraft
from onnxgraft import InputError, Options, atomic
from onnxgraft.cli.stops import WORDS
from onnxgraft.driver.build_folder import new_folder
from onnxgraft.files import write_json
from onnxgraft.manifest import TIMES, Manifest

SMALL = (64, 96)
PASSES = "upgrade-opset,simplify"
MEASURED = re.compile(rb'[\d.]+ (?:s|ms)\b|width: ?[\d.]+%|"seconds": ?[\d.e-]+')  # report.html shows the seconds of times.json
DATA = re.compile(r'<script type="text/plain" id="data">.*?</script>', re.DOTALL)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a build that should not change, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != TIMES:
            data = path.read_bytes()
            if path.name == "report.html":
                page = data.decode()
                data = MEASURED.sub(b"", (DATA.sub("", page) + json.dumps(data_of(page))).encode())
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def small_build(model: Path, folder: Path, target: str = "onnxruntime", checks: bool = True) -> onnxgraft.Build:
    return onnxgraft.compile(model, folder, Options(target=target, size=SMALL, checks=checks))


def net_build(model: Path, folder: Path) -> onnxgraft.Build:
    """Of a network that is no detector, which takes a second."""
    return onnxgraft.compile(model, folder, Options(target="onnxruntime", passes=PASSES))


@pytest.mark.slow
def test_an_engine_built_twice_has_the_same_bytes(golden_model: Path, tmp_path: Path) -> None:
    """In two processes with different hash seeds. (NVIDIA's builder orders the outputs by their place in memory, so an
    engine that is built late in a busy process can differ in that.)"""
    for name, seed in (("a", "7"), ("b", "8")):
        command = [sys.executable, "-c", "from onnxgraft.cli.main import main; main()", "build", str(golden_model)]
        command += ["--size", "64x96", "--target", "tensorrt-rtx", "--no-proof", "-o", name]
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
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and below nohup this one
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
    command += ["--passes", PASSES, "--target", "onnxruntime", "-o", str(folder)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "written\n":
            assert list(folder.parent.glob(f".{folder.name}.new-*/model.onnx"))
            return process
    pytest.fail(f"the build ended: {process.communicate()}")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_build_leaves_the_previous_one(how: signal.Signals, conv_net: Path, tmp_path: Path) -> None:
    folder = tmp_path / "builds" / "out"
    net_build(conv_net, folder)
    before = digests(folder)
    process = stopped_build(conv_net, folder)
    process.send_signal(how)
    _, stderr = process.communicate()
    assert process.returncode == (-9 if how == signal.SIGKILL else 128 + how)
    assert digests(folder) == before
    if how == signal.SIGKILL:
        assert len(list(folder.parent.iterdir())) == 3  # the lock and the new folder: the next build takes them away
        net_build(conv_net, folder)
    else:
        assert stderr == f"error: {WORDS}\n"
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def build_in(folder: Path, words: str = "1") -> Path:
    """A folder that passes for a build, with one more file."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"onnxgraft": "0"}')
    (folder / "words.txt").write_text(words)
    return folder


def replace(place: Path, words: str) -> None:
    with new_folder(place) as folder:
        (folder / "manifest.json").write_text('{"onnxgraft": "0"}')
        (folder / "words.txt").write_text(words)


def test_a_build_killed_between_two_renames_is_brought_back(tmp_path: Path) -> None:
    build_in(tmp_path / ".out.old")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out"):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "words.txt").read_text() == "1"


def test_readers_bring_it_back_too(tmp_path: Path) -> None:
    build_in(tmp_path / ".out.old")
    with pytest.raises(InputError, match="is missing"):  # it is read, and is no whole manifest
        Manifest.read(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_killed_builds_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    build_in(tmp_path / "out")
    for left in (".out.old", ".out.new-abcd_123", ".out.new-killed_2"):
        build_in(tmp_path / left)
    (tmp_path / ".out.lock").write_text("1")
    for other in (".outer.new-abcd_123", ".out.new-x.new-abcd_123", ".out.news"):
        build_in(tmp_path / other)
    replace(tmp_path / "out", "2")
    assert (tmp_path / "out" / "words.txt").read_text() == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.new-x.new-abcd_123", ".out.news", ".outer.new-abcd_123", "out"]


def test_a_second_build_of_the_same_place_is_told(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text('{"onnxgraft": "0"}')
        told = f"out: another build is writing it \\(process {os.getpid()}\\); wait, or give another -o$"
        with pytest.raises(InputError, match=told), new_folder(tmp_path / "out"):
            pytest.fail("entered")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_a_link(exists: bool, tmp_path: Path) -> None:
    if exists:
        build_in(tmp_path / "elsewhere" / "real")
    (tmp_path / "link").symlink_to(Path("elsewhere") / "real")
    for words in ("2", "3"):
        replace(tmp_path / "link", words)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "real" / "words.txt").read_text() == "3"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "link"]
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["real"]


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match=r"a: .*symbolic links"), new_folder(tmp_path / "a"):
        pytest.fail("entered")


@pytest.mark.parametrize("system", ["exchanges", "does not"])
def test_a_swap_puts_the_new_folder_in_place(system: str, tmp_path: Path) -> None:
    build_in(tmp_path / "out", "old")
    build_in(tmp_path / ".out.new-abcd_123", "new")
    how = None if system == "exchanges" else lambda first, second: False
    atomic.swap(tmp_path / ".out.new-abcd_123", tmp_path / "out", how)
    assert (tmp_path / "out" / "words.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_is_honoured(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        replace(tmp_path / "out", "1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize("place", ["/", ".", "..", "../inner"])
def test_the_current_folder_is_not_replaced(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(InputError, match="you are in this folder"), new_folder(Path(place)):
        pytest.fail("entered")
    assert list((tmp_path / "inner").iterdir()) == []


def test_a_failed_build_leaves_the_previous_one(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with new_folder(place) as folder:
        (folder / "manifest.json").write_text('{"onnxgraft": 1}')
    with pytest.raises(ZeroDivisionError), new_folder(place) as folder:
        (folder / "manifest.json").write_text(str(1 / 0))
    assert (place / "manifest.json").read_text() == '{"onnxgraft": 1}'
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_build_replaces_an_older_one_as_a_whole(tmp_path: Path) -> None:
    for names in (("manifest.json", "old.txt"), ("manifest.json", "new.txt")):
        with new_folder(tmp_path / "out") as folder:
            for name in names:
                (folder / name).write_text('{"onnxgraft": 1}')
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_it_takes_no_other_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "a web page has one too"}')
    for place, reason in (
        ("file", "is a file; give a folder for the build (-o)"),
        ("folder", "holds files that are no build; give an empty or a new folder (-o)"),
        ("site", "holds files that are no build; give an empty or a new folder (-o)"),
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


@contextmanager
def disk(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (that needs root)")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes: the golden detector has eleven."""
    with disk(tmp_path / "disk", "size=4m") as place:
        yield place


def test_a_read_only_disk(conv_net: Path, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "ro") as place:
        with pytest.raises(InputError, match=r"^.*/disk/out: cannot be written: read-only file system$"):
            net_build(conv_net, place / "out")
        with pytest.raises(InputError, match=r"^.*/disk/found.json cannot be written: read-only file system$"):
            write_json(place / "found.json", [])


def test_a_disk_that_is_full_to_the_last_byte(full_disk: Path, conv_net: Path) -> None:
    """Not even the lock can say whose it is."""
    with suppress(OSError), open(full_disk / "filling", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(InputError, match=r"/disk/.* cannot be written: no space left on device$"):
        net_build(conv_net, full_disk / "out")
    assert [p.name for p in full_disk.iterdir()] == ["filling"]


def test_a_full_disk(full_disk: Path, golden_model: Path) -> None:
    (full_disk / "out").mkdir()
    (full_disk / "out" / "manifest.json").write_text('{"onnxgraft": 1}')
    options = ("--size", "64x96", "--target", "onnxruntime", "--no-checks", "--no-proof", "-o", full_disk / "out")
    assert_one_line_error(cli("build", golden_model, *options), "cannot be written: no space left on device")
    assert [p.name for p in full_disk.iterdir()] == ["out"]
    assert (full_disk / "out" / "manifest.json").read_text() == '{"onnxgraft": 1}'
