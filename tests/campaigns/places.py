"""Places where nothing can be written, names that are no text, locales: one line each, or the work is done."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from campaigns.processes import child

SMALL = ("build", "small.onnx", "--passes", "upgrade-opset,simplify", "--no-proof", "--target", "onnxruntime")
NOWHERE = ("/proc/x/out", "file", "file/out", "/", ".", "..", "a" * 300, "/dev/null/x", "pictures", "loop", "a/" * 3000)
ODD = (b"a b", "ü出".encode(), b"\xff\xfe", b"-o", b"new\nline", b"'\"$(x)", b".hidden", b"%s{}\\")
DISK = 256 << 10  # bytes


class Places:
    """Tries them all in a folder that has small.onnx and pictures.

    Args:
        folder: to work in.
        detector: whether there is a build `detector`, to run infer with.
        counts: what was tried, by kind.
        fault: told what went wrong.
    """

    def __init__(self, folder: Path, detector: bool, counts: Counter[str], fault: Callable[[str], None]) -> None:
        self.folder, self.detector, self.counts, self.fault = folder, detector, counts, fault

    def commands(self, place: str) -> list[tuple[str, ...]]:
        """Everything that writes, told to write below `place`."""
        found = [(*SMALL, f"--output={place}/out"), ("report", "done", f"--output={place}/page.html")]
        if self.detector:
            found.append(("infer", "detector", "pictures/0.png", "--json", f"{place}/found.json"))
            found.append(("infer", "detector", "pictures/0.png", "--draw", f"{place}/drawn"))
            found.append(("calibrate", "semantic_fpn_thin", "--images", "pictures", "--size", "64x96", "-o", f"{place}/c.json"))
            found.append(("eval", "detector", "--images", "pictures", "--semantic", "labels", "--json", f"{place}/f.json"))
        return found

    def refused(self, kind: str, arguments: Sequence[str]) -> None:
        """It must end with one line that is an error of the user's."""
        ended = child(arguments, self.folder)
        self.counts[kind] += 1
        line = ended.said.rstrip("\n")
        if ended.code != 1 or "\n" in line or not line.startswith("error: ") or "fault of onnxgraft" in line:
            self.fault(f"{kind}: {arguments[0]} {arguments[-1][:40]!r}: {ended.code}: {ended.said[:300]}")

    def nowhere(self) -> None:
        (self.folder / "file").write_text("mine")
        (self.folder / "loop").symlink_to("loop")
        for place in NOWHERE:
            self.refused("no such place", (*SMALL, f"--output={place}"))
        for arguments in self.commands("/proc"):
            self.refused("no such place", arguments)
        if (self.folder / "file").read_text() != "mine":
            self.fault("a file was replaced")

    def disks(self) -> None:
        """A disk that is full, one that cannot be written, and both as the temporary folder."""
        disk = self.folder / "disk"
        disk.mkdir()
        for kind, options in (("full disk", f"size={DISK}"), ("read-only disk", "ro")):
            if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], capture_output=True).returncode:
                self.counts[f"{kind}: cannot be mounted here (needs root)"] += 1
                continue
            try:
                self._disk(kind, disk)
            finally:
                subprocess.run(["umount", disk], check=True)

    def _disk(self, kind: str, disk: Path) -> None:
        if kind == "full disk":
            with contextlib.suppress(OSError), open(disk / "filling", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        held = sorted(os.listdir(disk))
        for arguments in self.commands(str(disk)):
            self.refused(kind, arguments)
            if left := sorted(set(os.listdir(disk)) - {*held, "drawn"}):
                self.fault(f"{kind}: {arguments[0]} left {left}")
        for arguments in self.commands("elsewhere"):
            self.temporary(f"temporary folder on a {kind}", arguments, str(disk))
        if left := sorted(set(os.listdir(disk)) - {*held, "drawn"}):
            self.fault(f"{kind}: as the temporary folder it holds {left}")

    def temporary(self, kind: str, arguments: Sequence[str], place: str) -> None:
        """With another temporary folder: the work is done, or one line says why not."""
        env = {**os.environ, "TMPDIR": place}
        ended = self._fresh(kind, arguments, env)
        line = ended.stderr.decode(errors="replace").rstrip("\n")
        if ended.returncode not in (0, 1) or "\n" in line or "fault of onnxgraft" in line or "Traceback" in line:
            self.fault(f"{kind}: {arguments[0]}: {ended.returncode}: {line[:300]}")

    def names(self) -> None:
        """Every odd name as a folder of builds, in locales that have no such letters."""
        for index, name in enumerate(ODD):
            home = os.fsencode(self.folder) + b"/odd/" + name
            os.makedirs(home)
            os.link(self.folder / "small.onnx", home + b"/" + name + b".onnx")
            locale = ("C", "C.UTF-8", "POSIX")[index % 3]
            env = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
            words = (b"build", home + b"/" + name + b".onnx", *SMALL[2:], b"--output=" + home + b"/" + name)
            for arguments in (words, (b"diff", home + b"/" + name), (b"report", home + b"/" + name)):
                ended = self._fresh("odd names and locales", arguments, env)
                if ended.returncode or ended.stderr:
                    self.fault(f"{name!r} in {locale}: {ended.returncode}: {ended.stderr[:300]!r}")

    def _fresh(self, kind: str, arguments: Sequence[str | bytes], env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
        """A new Python, for what is settled when it starts."""
        self.counts[kind] += 1
        words = [sys.executable, "-W", "ignore", "-m", "onnxgraft", *arguments]
        return subprocess.run(words, capture_output=True, cwd=self.folder, env={**env, "PYTHONPATH": os.pathsep.join(sys.path)})


def everywhere(folder: Path, detector: bool, counts: Counter[str], fault: Callable[[str], None]) -> None:
    """Try all places. See Places."""
    tried = Places(folder, detector, counts, fault)
    if child((*SMALL, "--output=done"), folder).code:
        fault("the build that the places need")
    tried.nowhere()
    tried.disks()
    for place in ("/proc/x", "/nonexistent", str(folder / "file")):
        for arguments in tried.commands("elsewhere"):
            tried.temporary("unwritable temporary folder", arguments, place)
    tried.names()
