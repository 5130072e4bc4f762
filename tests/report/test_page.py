"""The report: one file, all passes, fluid in a real browser on a full-size graph."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.pages import data_of
from helpers.small_models import BAD
from typer.testing import CliRunner

from onnxgraft import Build, InputError, Options, compile
from onnxgraft.cli.main import app
from onnxgraft.golden import catalog
from onnxgraft.report.html import page as page_of
from onnxgraft.report.html import write_report
from onnxgraft.report.reader import read_run
from onnxgraft.report.side_by_side import rows

OPEN_MS, SWITCH_MS = 2000, 200
PATIENCE_MS = 600_000  # of the browser: a busy machine is no failure


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The golden detector, more than 2000 nodes raw, built at 256x320 with a drawn picture."""
    folder = tmp_path_factory.mktemp("viewer") / "run"
    made = compile("mask_rcnn", folder, Options(size=(256, 320), target="onnxruntime", engine=False))
    (folder / "drawn").mkdir()
    cv2.imwrite(str(folder / "drawn" / "picture.png"), np.full((900, 1600, 3), 80, np.uint8))
    write_report(folder)
    return made


def test_page_holds_everything_and_asks_nobody(build: Build) -> None:
    page = (build.folder / "report.html").read_text()
    data = data_of(page)
    assert [row["name"] for row in data["passes"]] == [record.name for record in build.report.records]
    assert len(data["graph"]["stages"]) == len(data["passes"]) + 1
    assert len(data["graph"]["stages"][0]["nodes"]) > 2000
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", outside)
    assert "data:image/jpeg;base64," in page
    assert "top-k before NMS" in page  # in the words of inspect
    assert len(page) < 1_500_000
    assert all(row["does"].endswith(".") for row in data["passes"])


def test_weights_carry_statistics_and_nodes_their_origin(build: Build) -> None:
    graph = data_of((build.folder / "report.html").read_text())["graph"]
    large = [stats for _, text, stats in graph["constants"] if re.match(r"float32\[\d+,3,7,7\]", text)]
    assert large
    assert large[0]["min"] < large[0]["mean"] < large[0]["max"]
    pooled = next(name for name in graph["origins"] if "PyramidROIAlign_TRT" in name)
    assert graph["origins"][pooled][0] == "roi-align"
    assert graph["origins"][pooled][1]


def test_report_command_writes_where_it_is_told(build: Build, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(build.folder), "-o", str(place)], catch_exceptions=False)
    assert result.output.strip() == str(place)
    assert place.read_text() == (build.folder / "report.html").read_text()
    with pytest.raises(InputError, match="cannot be written"):
        write_report(build.folder, place / "page.html")
    with pytest.raises(InputError, match=r"holds no report\.json"):
        write_report(tmp_path)


def test_a_proof_whose_record_is_damaged_is_said_to_be(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(build.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"proof": {"parts": 3}}))
    assert "what the manifest says of it is damaged" in page_of(read_run(folder))


def test_the_least_time_is_shown_once_it_was_computed(build: Build, tmp_path: Path) -> None:
    shutil.copytree(build.folder, tmp_path / "run")
    parts = [{"part": "backbone", "MiB": "48.7"}, {"part": "NMS", "MiB": "<script>"}]
    tables = [parts, [{"least ms on": "H100", "all": "0.28"}]]
    assert "bench RUN --floor --json RUN/floor.json" in page_of(read_run(tmp_path / "run"))
    (tmp_path / "run" / "floor.json").write_text(json.dumps(tables))
    shown = page_of(read_run(tmp_path / "run"))
    assert '<th scope="row">backbone</th><td>48.7</td>' in shown
    assert '<th scope="row">H100</th><td>0.28</td>' in shown
    assert "<td>&lt;script&gt;</td>" in shown
    for damaged in ("[", "{}", "[[]]", '[[{"a": 1}, {}]]', "[[1]]"):
        (tmp_path / "run" / "floor.json").write_text(damaged)
        assert "bench RUN --floor --json RUN/floor.json" in page_of(read_run(tmp_path / "run"))


def test_rows_pair_lines_that_define_the_same_value() -> None:
    diff = "--- a\n+++ b\n@@ -3,3 +3,3 @@\n k: f = A()\n-x: f = B(k)\n-y: f = C(x)\n+x: f = D(k)\n+z: f = E(x)\n"
    assert list(rows(diff)) == [
        ("@", 3, "line 3", 3, ""),
        (" ", 3, "k: f = A()", 3, ""),
        ("~", 4, "x: f = B(k)", 4, "x: f = D(k)"),
        ("-", 5, "y: f = C(x)", 0, ""),
        ("+", 0, "", 5, "z: f = E(x)"),
    ]
    assert list(rows("")) == []


def test_notebook_shows_a_table(build: Build) -> None:
    html = build._repr_html_()
    assert "inject-anchors" in html
    assert "report.html" in html
    assert "<table" in build.report._repr_html_()
    assert build.passes["inject-anchors"].diff.startswith("--- before/inject-anchors")
    assert build.report["inject-anchors"].changed


@pytest.fixture
def page(browser: Any, build: Build) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1500, "height": 950}, color_scheme="light", bypass_csp=True)
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "blob:", "data:")) or errors.append(request.url))
    tab.goto((build.folder / "report.html").as_uri())
    tab.wait_for_function("window.onnxgraft && onnxgraft.ready")
    yield tab
    context.close()
    assert errors == []


def test_opening_and_switching(page: Any, request: pytest.FixtureRequest) -> None:
    """Every pass is shown; with --speed also in time, the best of three rounds. Pictures count when they are painted."""
    opened: list[float] = []
    text: dict[int, float] = {}
    painted: dict[int, float] = {}
    for _ in range(3):
        page.goto("about:blank")
        page.go_back()
        page.wait_for_function("window.onnxgraft && onnxgraft.ready")
        opened.append(page.evaluate("onnxgraft.ready"))
        count = page.evaluate("D.passes.length")
        for done in range(1, count + 1):
            page.keyboard.press("ArrowDown")
            page.wait_for_function(f"onnxgraft.switches.length == {done}")
        switches = page.evaluate("onnxgraft.switches")
        assert [s["pass"] for s in switches] == list(range(1, count + 1))
        for s in switches:
            text[s["pass"]] = min(s["text"], text.get(s["pass"], s["text"]))
            painted[s["pass"]] = min(s["all"], painted.get(s["pass"], s["all"]))
        page.evaluate("location.hash = ''")
    slowest = f"text {max(text.values()):.0f} ms, painted {max(painted.values()):.0f} ms"
    print(f"open {min(opened):.0f} ms; slowest switch: {slowest}")
    if not request.config.getoption("--speed"):  # what else the machine does must not fail a test
        return
    assert min(opened) < OPEN_MS
    assert max(text.values()) < SWITCH_MS
    assert max(painted.values()) < 4 * SWITCH_MS  # the aim holds on an idle machine; without a GPU, painting needs the cores


def test_state_is_in_the_url(page: Any, build: Build) -> None:
    page.keyboard.press("ArrowDown")
    assert page.url.endswith("#pass=1")
    page.goto((build.folder / "report.html").as_uri() + "#pass=simplify")
    page.wait_for_function("document.getElementById('pass-title').textContent.includes('simplify')")
    page.click("#next")
    assert "region=1" in page.url
    assert page.locator("#region option").count() > 1
    assert re.match(r"2 of \d+: \w", page.inner_text("#region option:checked"))
    page.keyboard.press("ArrowLeft")
    assert "region" not in page.url
    page.go_back()
    page.wait_for_function("document.getElementById('pass-title').textContent.startsWith('1 ')")


def test_unchanged_passes_hide_and_search_finds_nodes(page: Any) -> None:
    total = page.locator("#passes li").count()
    unchanged = page.locator("#passes li.same").count()
    assert unchanged > 0
    page.check("#hide")
    assert page.locator("#passes li").count() == total - unchanged
    page.keyboard.press("/")
    page.keyboard.type("pyramidroialign")
    names = page.locator("#passes li").all_inner_texts()
    assert any("roi-align" in name for name in names)
    assert len(names) < total - unchanged
    assert "hide=1" in page.url
    assert "q=pyramidroialign" in page.url


def test_pictures_colour_what_happened(page: Any, build: Build) -> None:
    page.goto((build.folder / "report.html").as_uri() + "#pass=roi-align")
    page.wait_for_function("panes.after && panes.after.nodes().length && panes.before.nodes().length")
    kinds = page.evaluate("['before', 'after'].map((s) => [...new Set(panes[s].nodes().map((n) => n.data('kind')))])")
    assert "deleted" in kinds[0]
    assert "created" not in kinds[0]
    assert "created" in kinds[1]
    assert "deleted" not in kinds[1]
    assert page.locator("#diff .line").count() > 10
    colours = "panes.after.nodes('[kind=\"created\"]')[0].style('background-color')"
    light = page.evaluate(colours)
    page.click("#theme")
    assert page.evaluate(colours) != light


def test_pictures_stay_small_and_leave_constants_out(page: Any) -> None:
    page.goto(page.url.partition("#")[0] + "#pass=simplify")
    page.wait_for_function("document.getElementById('pass-title').textContent.includes('simplify')")
    kinds = page.evaluate("""[...new Set(regions(state.pass).flat()
        .map((name) => (stage(state.pass - 1).byName.get(name) || stage(state.pass).byName.get(name)).node[OP]))]""")
    assert "Cast" in kinds
    assert "Constant" not in kinds
    sides = page.evaluate("""D.passes.flatMap((p) => regions(p.index).map((names) =>
        [stage(p.index - 1), stage(p.index)].map((s) => names.filter((name) => s.byName.has(name)).length)))""")
    assert max(max(pair) for pair in sides) <= 40  # 20 that stand on this side only, 20 changed ones that stand on both


def test_a_click_shows_a_node(page: Any, build: Build) -> None:
    page.goto((build.folder / "report.html").as_uri() + "#pass=roi-align")
    page.wait_for_function("panes.after && panes.after.nodes('[kind=\"created\"]').length")
    spot = page.evaluate("""(() => {
        const at = panes.after.nodes().filter((n) => n.data("label").includes("PyramidROIAlign"))[0].renderedPosition();
        const box = document.getElementById("after").getBoundingClientRect();
        return [box.x + at.x, box.y + at.y];
    })()""")
    page.mouse.click(*spot)
    page.wait_for_selector("#details:not([hidden])")
    shown = page.inner_text("#details")
    for words in ("PyramidROIAlign_TRT", "pooled_size=7", "float32[1,1000,64,7,7]", "Made by roi-align", "It stands for"):
        assert words in shown
    page.keyboard.press("Escape")
    assert page.locator("#details").is_hidden()


def test_a_failed_build_opens_too(browser: Any, tmp_path: Path) -> None:
    options = Options(passes="upgrade-opset,simplify,fix-input,throws", load=(str(BAD),), target="onnxruntime", engine=False)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        compile(catalog.ROOT / "mask_rcnn" / "model.onnx", tmp_path / "out", options)
    tab = browser.new_page(bypass_csp=True)  # what waits for the page is a script too
    tab.set_default_timeout(PATIENCE_MS)
    tab.goto((tmp_path / "out.reproducer" / "report.html").as_uri())
    tab.wait_for_function("window.onnxgraft && onnxgraft.ready")
    assert "throws failed" in tab.inner_text(".failure")
    assert "ZeroDivisionError" in tab.inner_text("#passes li.failed")
    shown = tab.inner_text("#overview")
    assert "--passes upgrade-opset,simplify,fix-input,throws" in shown
    assert re.search(r"simplify\s+\d+\.\d\d s", shown)
    assert "mask-rcnn-fpn" in shown
    tab.close()
