"""The docs: links lead somewhere, and tutorials run exactly as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onnxgraft.cli.options import markdown as options_page
from onnxgraft.passes.default import known_passes
from onnxgraft.pipeline.docs import describe_all
from onnxgraft.pipeline.docs import markdown as passes_page
from onnxgraft.pipeline.registry import Registry
from onnxgraft.plugins import REGISTRY
from onnxgraft.plugins import docs as plugins_docs

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in (a or b for a, b in LINK.findall(page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name}: {target.name} has no heading {anchor!r}"


def test_every_page_is_reached_from_the_start() -> None:
    seen: set[Path] = set()
    queue = [DOCS / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen or page.suffix != ".md" or page.parent != DOCS:
            continue
        seen.add(page)
        links = (a or b for a, b in LINK.findall(page.read_text()))
        queue += [(page.parent / link.partition("#")[0]).resolve() for link in links if not link.startswith("http")]
    assert seen == set(DOCS.glob("*.md"))


def test_the_page_of_passes_is_what_the_program_prints() -> None:
    built_in = [kind for kind in known_passes() if kind.__module__.startswith("onnxgraft.")]
    hint = "onnxgraft passes --markdown > docs/passes.md"
    assert (DOCS / "passes.md").read_text() == passes_page(describe_all(Registry(built_in))), hint


def test_the_page_of_plugins_has_the_table_that_the_program_prints() -> None:
    page = (DOCS / "plugins.md").read_text()
    table = plugins_docs.BEGIN + page.partition(plugins_docs.BEGIN)[2].partition(plugins_docs.END)[0] + plugins_docs.END
    assert table == plugins_docs.markdown(), "put what onnxgraft plugins --markdown prints into docs/plugins.md"


@pytest.mark.parametrize("name", REGISTRY)
def test_the_page_of_plugins_tells_every_attribute(name: str) -> None:
    section = (DOCS / "plugins.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert section
    kinds = [type(plugin) for plugin in REGISTRY.values()]
    if any(kind in kinds for kind in type(REGISTRY[name]).__mro__[1:]):
        return  # the page refers to the op that it derives from
    for attribute in REGISTRY[name].attributes:
        assert f"`{attribute.name}`" in section, attribute.name


def test_the_page_of_options_is_what_the_program_prints() -> None:
    hint = "onnxgraft options --markdown > docs/options.md"
    assert (DOCS / "options.md").read_text() == options_page(), hint


def expect(printed: str, actual: str) -> None:
    """`...` in the printed text stands for anything, a run of spaces for any other (terminals differ in width)."""
    printed, actual = (re.sub(" +", " ", text) for text in (printed, actual))
    pattern = ".*".join(re.escape(part) for part in printed.rstrip("\n").split("..."))
    assert re.fullmatch(pattern, actual.rstrip("\n"), re.DOTALL), f"printed:\n{printed}\nbut got:\n{actual}"


@pytest.mark.parametrize(("page", "longest"), [("custom-passes.md", 60), ("new-architecture.md", 150)])
def test_tutorial_runs_as_printed(page: str, longest: int, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "tiny_yolo.onnx", tmp_path)
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path), "COLUMNS": "120", "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }  # fmt: skip
    lines = 0
    for kind, content in BLOCK.findall((DOCS / page).read_text()):
        if kind == "python":
            name, _, body = content.partition("\n")
            (tmp_path / name.removeprefix("# ")).write_text(body)
            lines += len(body.strip().splitlines())
            continue
        for command, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", content, re.MULTILINE):
            ran = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert "error:" in printed or ran.returncode == 0, ran.stdout + ran.stderr
            expect(printed, ran.stdout + ran.stderr)
    assert 10 < lines < longest
