"""Write constraints.txt: the newest versions that pip installs for the tests, one line a package, for each Python found.

    python .ci/lock.py

Each of Python 3.10 to 3.13 that is on the PATH (or in PYTHONS, separated by spaces) resolves for itself; where they
differ, the lines carry markers. A Python that was not asked gets what the nearest one below it got.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
HEAD = """\
# What `make install` installs, as each Python resolved it when `make lock` wrote this. The ranges are in pyproject.toml.
"""

Minor = tuple[int, ...]


def resolve(python: str) -> tuple[Minor, dict[str, str]]:
    """The Python's version, and what pip would install with it: versions by normalised name."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        inside = str(Path(folder) / "bin" / "python")
        pip = [inside, "-m", "pip", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
        report = Path(folder) / "report.json"
        subprocess.run([*pip, "install", "--dry-run", "--report", str(report), f"{ROOT}[rtx,test]"], check=True)
        found = json.loads(report.read_text())
    version = tuple(int(part) for part in found["environment"]["python_version"].split("."))
    packages = [item["metadata"] for item in found["install"]]
    return version, {re.sub(r"[-_.]+", "-", p["name"]).lower(): p["version"] for p in packages if p["name"] != "onnxgraft"}


def lines(resolved: dict[Minor, dict[str, str]]) -> list[str]:
    """Pins of all Pythons, sorted by name, with markers where the versions differ."""
    packages: dict[str, dict[Minor, str]] = defaultdict(dict)
    for python, pins in resolved.items():
        for name, version in pins.items():
            packages[name][python] = version
    written = []
    for name in sorted(packages):
        known = packages[name]
        starts = [p for before, p in zip([None, *sorted(known)], sorted(known), strict=False)
                  if before is None or known[before] != known[p]]  # fmt: skip
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            bounds = [f"python_version >= '{_text(start)}'"] if start != starts[0] else []
            bounds += [f"python_version < '{_text(end)}'"] if end is not None else []
            written.append(f"{name}=={known[start]}" + (f" ; {' and '.join(bounds)}" if bounds else ""))
    return written


def _text(version: Minor) -> str:
    return ".".join(map(str, version))


def main() -> None:
    named = os.environ.get("PYTHONS", "").split() or [f"python3.{minor}" for minor in range(10, 14)]
    pythons = [python for python in named if shutil.which(python) and not subprocess.run(
        [python, "-c", "import ensurepip, venv"], capture_output=True).returncode]  # fmt: skip
    if not pythons:
        sys.exit(f"error: none of {', '.join(named)} was found")
    resolved = dict(resolve(python) for python in pythons)
    FILE.write_text(HEAD + "\n".join(lines(resolved)) + "\n")
    print(f"{FILE.name}: {', '.join(map(_text, sorted(resolved)))}; {len(lines(resolved))} pins")


if __name__ == "__main__":
    main()
