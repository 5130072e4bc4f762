"""The README's commands run as they are printed, but at a small size and for ONNX Runtime, so that it is quick."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.cli import cli

from onnxgraft.golden import catalog

README = Path(__file__).resolve().parents[2] / "README.md"
COMMAND = re.compile(r"^    (onnxgraft (?:[^#\n]|(?<! )#)*?) *(?:# .*)?$", re.MULTILINE)
SMALL = ["--size", "256x320", "--target", "onnxruntime"]
MY_PASS = '''
from dataclasses import dataclass
from onnxgraft import Pass

@dataclass(frozen=True, kw_only=True)
class MyPass(Pass):
    """Count the nodes."""

    def run(self, graph, ctx):
        ctx.count("nodes", len(graph.nodes))
'''


def test_commands_run_in_order(tmp_path: Path) -> None:
    source = catalog.ROOT / "mask_rcnn"
    shutil.copy(source / "model.onnx", tmp_path / "model.onnx")
    shutil.copy(source / "images" / "scene_0.jpg", tmp_path / "photo.jpg")
    (tmp_path / "my_passes.py").write_text(MY_PASS)
    first = cli("build", "mask_rcnn", *SMALL, "--no-proof", "-o", "build/mask_rcnn/fp32", cwd=tmp_path)
    assert first.returncode == 0, first.stderr  # what `make engine` leaves there
    commands = [shlex.split(line) for line in COMMAND.findall(README.read_text())]
    assert {words[1] for words in commands} >= {"inspect", "build", "verify", "infer", "diff"}
    for words in commands:
        small = [*SMALL, "--no-proof"] if words[1] == "build" else []
        if "--passes" in words:
            small = small[2:]  # a pipeline without fix-input has no size
        done = cli(*words[1:], *small, cwd=tmp_path)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        assert done.stdout.strip(), words
    assert (tmp_path / "out.json").is_file()
    assert list((tmp_path / "drawn").iterdir())
    assert (tmp_path / "out" / "report.html").is_file()
    (program,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("1344, 1344)") or "torch.Size" in done.stdout  # the photo's own pixels
    assert (tmp_path / "mine" / "passes" / "02_my-pass.diff").read_text() == ""


def test_the_recipes_of_the_docs_name_commands_that_exist() -> None:
    known = {line.split()[0] for line in cli("--help").stdout.partition("Commands:")[2].splitlines() if line.strip()}
    for page in [README, *README.parent.joinpath("docs").glob("*.md")]:
        for command in re.findall(r"^(?:    |\$ )onnxgraft (\w+)", page.read_text(), re.MULTILINE):
            assert command in known, f"{page.name}: onnxgraft {command}"
