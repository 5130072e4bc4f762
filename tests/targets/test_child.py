"""An engine is built by a child: what becomes of either process, the other one ends well."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers.target_models import MIXED, RTX, needs_rtx, write

from onnxgraft.errors import TargetError
from onnxgraft.options import BuilderOptions
from onnxgraft.targets.trt.child import Building, Request, command_of
from onnxgraft.targets.trt.dialect import TENSORRT_RTX

DIED = "TensorRT for RTX ended while it built an engine ({})"
NOTHING = Request("tensorrt_rtx", "tensorrt-rtx", Path("model.onnx"), Path("engine"), BuilderOptions(), {})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", DIED.format("SIGSEGV") + ": no reason given"),
        ("raise MemoryError('no more')", DIED.format("exit code 1") + ": MemoryError: no more"),
        ("pass", DIED.format("exit code 0") + ": no reason given"),
    ],
)  # fmt: skip
def test_what_a_child_leaves(code: str, reason: str) -> None:
    child = Building(TENSORRT_RTX, NOTHING, [sys.executable, "-c", code])
    with pytest.raises(TargetError) as refused:
        child.wait()
    child.stop()
    assert str(refused.value) == reason


def test_a_child_imports_from_where_its_parent_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the folder that a command runs in is not taken for a module, unless its parent would take it."""
    (tmp_path / "pickle.py").write_text("raise SystemExit('taken')")
    code = command_of("onnxgraft.targets.trt.devices")[-1].rpartition("; main")[0]
    code = code.replace("import main", "import no_gpu")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_rtx
def test_leaving_the_block_ends_the_build(tmp_path: Path) -> None:
    model = write(tmp_path / "mixed.onnx", MIXED)
    before = set(psutil.Process().children())  # what runs command lines for other tests lives on
    with RTX.building(model, tmp_path / "e"):
        assert len(set(psutil.Process().children()) - before) == 1
    assert set(psutil.Process().children()) <= before
    assert [path.name for path in tmp_path.iterdir()] == ["mixed.onnx"]


@needs_rtx
def test_a_killed_parent_leaves_no_child(golden_model: Path, tmp_path: Path) -> None:
    """The child is killed with its parent while it waits or builds, and writes nothing afterwards."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom onnxgraft import targets\n"
        "with targets.get('tensorrt-rtx').building(Path(sys.argv[1]), Path(sys.argv[2])):\n"
        "    print('building', flush=True)\n    import time\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(golden_model), str(tmp_path / "e")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"building\n"
        (child,) = psutil.Process(parent.pid).children()
        time.sleep(0.5)
        parent.kill()
    child.wait(timeout=60)
    assert list(tmp_path.iterdir()) == []
