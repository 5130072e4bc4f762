"""Names in a model are not ours: whatever they hold, the page shows them as text and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
import pytest
from helpers.hostile import NAMES, hostile_names
from helpers.pages import data_of

from onnxgraft import Options, compile
from onnxgraft.report.html import write_report

PASSES = "upgrade-opset,simplify,simplify"
PARTS = ("model.js", "diff.js", "pictures.js", "details.js", "main.js")


def hostile_build(names: list[str], folder: Path) -> Path:
    """A build of a model whose every name is hostile: graph, nodes, tensors, documentation, and the file."""
    nodes, last = [], "x"
    for index, name in enumerate(names):
        op = "Identity" if index % 5 == 0 else "Relu"
        nodes.append(onnx.helper.make_node(op, [last], [f"{name} {index}"], name, doc_string=name))
        last = f"{name} {index}"
    nodes.append(onnx.helper.make_node("Relu", [last], ["y"], names[0]))
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 2]) for n in "xy")
    graph = onnx.helper.make_graph(nodes, names[-1], [x], [y], doc_string=names[0])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], producer_name=names[0])
    place = folder / "x\" onload='onnxgraft_ran=1' y=\"<script>onnxgraft_ran=1<script>.onnx"
    onnx.save(model, place)
    return compile(place, folder / "run", Options(passes=PASSES, target="onnxruntime", engine=False)).folder


class Elements(HTMLParser):
    """The names of the elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def elements(page: str) -> Elements:
    found = Elements()
    found.feed(page)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_build(hostile_names(random.Random(5), 40), tmp_path_factory.mktemp("hostile"))


def test_the_page_has_its_own_elements_only(run: Path) -> None:
    page = (run / "report.html").read_text()
    found = elements(page)
    assert not {name for name in found.attributes if name.startswith("on")}
    assert page.count("</script>") == page.count("<script") == 4
    (data,) = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in data
    assert any(name in node[0] for node in data_of(page)["graph"]["nodes"] for name in NAMES if "<!--<script>" in name)


def test_the_policy_allows_the_pages_own_scripts_and_nothing_else(run: Path) -> None:
    page = (run / "report.html").read_text()
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"


def test_numbers_that_are_not_finite_do_not_kill_the_page(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    times = json.loads((run / "times.json").read_text())
    times["passes"][0]["seconds"] = float("nan")
    (tmp_path / "run" / "times.json").write_text(json.dumps(times))
    write_report(tmp_path / "run")
    assert data_of((tmp_path / "run" / "report.html").read_text())["passes"][0]["seconds"] is None


NODE = """
const fs = require("fs"), [data, ...parts] = process.argv.slice(1);
const written = [], texts = { data: fs.readFileSync(data, "utf8"), "layout-library": "" };
const place = (id) => ({ classList: { toggle() {} }, querySelector: () => place("x"), querySelectorAll: () => [], append() {},
  set innerHTML(html) { written.push(html); }, insertAdjacentHTML(_, html) { written.push(html); }, addEventListener() {},
  textContent: texts[id] || "", previousElementSibling: {}, scrollIntoView() {} });
globalThis.window = globalThis;
globalThis.document = { getElementById: place, querySelector: place, createElement: place, documentElement: place("root") };
globalThis.location = { hash: "" };
globalThis.history = { pushState() {}, replaceState() {} };
globalThis.addEventListener = () => {};
globalThis.matchMedia = () => ({ matches: false });
globalThis.getComputedStyle = () => ({ getPropertyValue: () => "" });
globalThis.requestAnimationFrame = (f) => f();
globalThis.IntersectionObserver = class { observe() {} disconnect() {} };
globalThis.ResizeObserver = class { observe() {} };
globalThis.Worker = class { postMessage() {} };
globalThis.URL.createObjectURL = () => "";
globalThis.cytoscape = () => { throw new Error("no pictures here"); };
const show = `
  D = JSON.parse(document.getElementById("data").textContent);
  for (const pass of D.passes) { state = { ...FIRST, pass: pass.index }; renderList(); showDiff(pass.rows);
    for (const name of stage(pass.index).byName.keys()) showDetails(name, pass.index);
    for (const name of stage(0).byName.keys()) showDetails(name, pass.index); }`;
process.on("unhandledRejection", () => {});
new Function(parts.map((part) => fs.readFileSync(part, "utf8")).join("") + show)();
fs.writeFileSync(1, JSON.stringify(written));
process.exit(0);
"""


def test_what_the_scripts_write_has_their_own_elements_only(run: Path, tmp_path: Path) -> None:
    """The page's own scripts, run in Node with stand-ins for a browser's document."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node on this machine")
    page = (run / "report.html").read_text()
    (tmp_path / "data.json").write_text(json.dumps(data_of(page)))
    parts = [str(files("onnxgraft.report").joinpath("page", name)) for name in PARTS]
    ran = subprocess.run([node, "-e", NODE, str(tmp_path / "data.json"), *parts], capture_output=True, text=True, check=True)
    written = json.loads(ran.stdout)
    assert len(written) > 100
    found = elements("".join(written))
    assert found.tags <= {"li", "span", "small", "a", "ul", "b", "i", "p", "h2", "h3", "div", "button", "pre", "br"}
    assert found.attributes <= {"class", "title", "data-pass", "data-node", "aria-current", "aria-label"}


@pytest.mark.parametrize("policy", ["with the policy", "without it"])
def test_nothing_runs_in_a_browser(policy: str, browser: Any, tmp_path: Path) -> None:
    """200 names; every pass, the details of every node and pictures are shown."""
    folder = hostile_build(hostile_names(random.Random(6), 200), tmp_path)
    tab = browser.new_page(bypass_csp=policy == "without it")
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto((folder / "report.html").as_uri())
    while not tab.evaluate("window.onnxgraft && onnxgraft.ready"):
        tab.wait_for_timeout(100)
    shown = tab.evaluate("""D.passes.map((p) => [...stage(p.index - 1).byName.keys()].map((name) => {
        state = { ...FIRST, pass: p.index, node: name };
        renderList(); showDiff(p.rows); showDetails(name, p.index);
        for (const place of document.querySelectorAll("#details *, #passes *")) {
            for (const kind of ["focus", "mouseover", "load", "error"]) place.dispatchEvent(new Event(kind));
        }
        return document.getElementById("details").hidden ? 0 : 1;
    })).flat()""")
    assert len(shown) > 400
    assert all(shown)
    drawn = tab.evaluate(
        "layout(2, 0, 'after').then(({ nodes, positions }) => nodes.every((n, i) => positions[`n${i}`].x > 0))"
    )
    assert drawn
    tab.wait_for_timeout(500)
    assert tab.evaluate("typeof onnxgraft_ran") == "undefined"
    assert errors == []
    tab.close()
