"""Whatever moment a process is killed at: what it wrote is whole or not there, and the next one takes its leftovers away."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.small_models import MODEL

from onnxgraft import InputError, Options, atomic, compile
from onnxgraft.atomic import is_folder
from onnxgraft.files import write_atomically, write_json
from onnxgraft.golden import catalog
from onnxgraft.manifest import Manifest
from onnxgraft.report.reader import read_run
from onnxgraft.tools.diff import show

SWAPS = {  # what kills the process, at the moment that it names
    "before the swap": "atomic.swap = killed",
    "after the exchange, before the old one is removed": "shutil.rmtree = killed",
    "between two renames": "atomic._exchange = lambda new, place: False; os.rename = killed_at_second",
    "after two renames, before the old one is removed": "atomic._exchange = lambda new, place: False; shutil.rmtree = killed",
}
SWAP = """
import os, shutil, signal, sys
from pathlib import Path
from onnxgraft import atomic
from onnxgraft.driver.build_folder import new_folder
def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
rename, calls = os.rename, []
def killed_at_second(*args):
    calls.append(args)
    if len(calls) == 2:
        killed()
    rename(*args)
with new_folder(Path(sys.argv[1])) as folder:
    (folder / "manifest.json").write_text('{{"onnxgraft": "0"}}')
    (folder / "words.txt").write_text("new")
    {moment}
"""


def killed(code: str, *arguments: object) -> None:
    ended = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def old_build(folder: Path) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text('{"onnxgraft": "0"}')
    (folder / "words.txt").write_text("old")
    return folder


@pytest.mark.parametrize("moment", SWAPS)
def test_killed_at_the_swap(moment: str, tmp_path: Path) -> None:
    """One of the two builds is there at once, or when somebody reads; another build replaces it and takes all else away."""
    place = old_build(tmp_path / "out")
    killed(SWAP.format(moment=SWAPS[moment]), place)
    atomic.recover(place)
    assert (place / "words.txt").read_text() == ("new" if moment.startswith("after") else "old")
    again = subprocess.run([sys.executable, "-c", SWAP.format(moment="pass"), place], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (place / "words.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_every_reader_brings_a_build_back(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "small.onnx")
    options = Options(passes="upgrade-opset,simplify", target="onnxruntime", proof=False)
    place = compile(tmp_path / "small.onnx", tmp_path / "out", options).folder
    for read in (read_run, lambda folder: list(show(folder, None)), Manifest.read, is_folder):
        place.rename(tmp_path / ".out.old")
        read(place)
        assert sorted(os.listdir(tmp_path)) == ["out", "small.onnx"]


SCRATCH = """
import os, signal, sys, tempfile
from onnxgraft.atomic import scratch
with scratch() as folder:
    (folder / "big.bin").write_bytes(bytes(1000))
    print(folder, flush=True)
    {then}
"""


def test_scratch_folders_of_the_killed_are_collected_and_of_the_living_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", SCRATCH.format(then="sys.stdin.read()")]
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        kept = Path(living.stdout.readline().rstrip("\n"))
        code = SCRATCH.format(then="os.kill(os.getpid(), signal.SIGKILL)")
        ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        left = Path(ended.stdout.rstrip("\n"))
        assert left.is_dir()
        (tmp_path / "onnxgraft-notes").mkdir()  # somebody's own, without a lock
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with atomic.scratch() as folder:
            assert folder.parent == tmp_path
            assert sorted(os.listdir(tmp_path)) == sorted([folder.name, kept.name, "onnxgraft-notes"])
        living.communicate("")
    assert os.listdir(tmp_path) == ["onnxgraft-notes"]


WRITE = """
import os, signal, sys
from pathlib import Path
from onnxgraft.files import write_atomically
def half(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), half)
"""


def test_a_file_whose_writer_was_killed(tmp_path: Path) -> None:
    """The old one stays; one file is left however many are killed, and goes with the next writer."""
    write_json(tmp_path / "found.json", [1])
    for _ in range(2):
        killed(WRITE, tmp_path / "found.json")
        assert (tmp_path / "found.json").read_text() == "[\n  1\n]\n"
        assert sorted(os.listdir(tmp_path)) == [".found.json.part", "found.json"]
    write_json(tmp_path / "found.json", [2])
    assert (tmp_path / "found.json").read_text() == "[\n  2\n]\n"
    assert os.listdir(tmp_path) == ["found.json"]


STALLED = """
import sys
from pathlib import Path
from onnxgraft.files import write_atomically
def half(file):
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
write_atomically(Path(sys.argv[1]), half)
"""


def test_two_processes_that_share_a_cache_one_of_them_killed(tmp_path: Path) -> None:
    """A golden graph that another process has half unpacked is unpacked again, whole, while that one lives and after."""
    name, cache = "retinanet", tmp_path / ".cache"
    whole = catalog.resolve(name, tmp_path / "alone")
    place = cache / whole.name
    for _ in range(2):
        words = [sys.executable, "-c", STALLED, str(place)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "half\n"
            assert not place.exists()
            assert catalog.resolve(name, cache).read_bytes() == whole.read_bytes()
            other.kill()
        assert place.read_bytes() == whole.read_bytes()
        place.unlink()
    assert catalog.resolve(name, cache).read_bytes() == whole.read_bytes()
    assert os.listdir(cache) == [whole.name]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_honour_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "model.onnx", b"")
        np.testing.assert_equal(os.umask(mask), mask)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.onnx").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("place", ["there", "there/deeper", "link"])
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(place: str, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine") if place != "link" else (tmp_path / "link").mkdir()
    with pytest.raises(InputError, match=r"cannot be written: ") as refused:
        write_atomically(tmp_path / place / "x" if place == "there" else tmp_path / place, b"new")
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path) == [place.partition("/")[0]]


def test_nothing_is_written_anywhere_else(tmp_path: Path) -> None:
    """No file in the home and temporary folders, such as those in which a library collects what it tells its makers."""
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "small.onnx")
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    env = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "ORT_DISABLE_TELEMETRY"):
        env.pop(name, None)
    words = ["build", "small.onnx", "--passes", "upgrade-opset,simplify", "--target", "onnxruntime", "-o", "out"]
    command = [sys.executable, "-c", "from onnxgraft.cli.start import main; main()", *words]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert [*(tmp_path / "home").rglob("*"), *(tmp_path / "tmp").rglob("*")] == []
