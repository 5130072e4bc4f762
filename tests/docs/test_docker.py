"""The files in docker/: instructions that there are, sources that are there, and extras that the package has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
INSTRUCTIONS = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert [path.suffix for path in FILES] == [".cpu", ".tensorrt"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_it_says_is_there(path: Path) -> None:
    found = instructions(path)
    assert {word for word, _ in found} <= INSTRUCTIONS
    assert [word for word, _ in found][:2] == ["ARG", "FROM"]
    copied = [source for word, rest in found if word == "COPY" for source in rest.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text()
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}\n" in ignored, f"{source} is not sent to the daemon"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {place.partition("/")[0] for place in project["tool"]["setuptools"]["package-dir"].values()}
    assert folders | {"pyproject.toml", "setup.py", "constraints.txt"} <= set(copied), "what an installation needs"
    for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(rest for word, rest in found if word == "RUN")):
        assert set(extra.split(",")) <= set(project["project"]["optional-dependencies"])
    assert "not built here" in path.read_text().lower(), "says what was not tried"
