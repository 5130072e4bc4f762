"""A repository for Triton: what stands in it, what is refused, and a real server that answers from it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from helpers.cli import assert_one_line_error, cli
from onnx import TensorProto

import onnxgraft
from onnxgraft import Options
from onnxgraft.golden.scenes import draw
from onnxgraft.runtime.images import read_image
from onnxgraft.runtime.session import Session

SERVER = os.environ.get("TRITON_PYTHON")
needs_triton = pytest.mark.skipif(
    not SERVER, reason="TRITON_PYTHON names no Python with nvidia-pytriton, onnxruntime, tritonclient[http], pillow, numpy<2"
)


@pytest.fixture(scope="module")
def build(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "out"
    onnxgraft.compile("mask_rcnn", folder, Options(target="onnxruntime", size=(256, 320), checks=False, proof=False))
    return folder


def test_a_repository_and_its_client(build: Path, tmp_path: Path) -> None:
    done = cli("package", build, "--triton", tmp_path / "models", "--ensemble", "--instances", "2", "--name", "shapes")
    assert (done.returncode, done.stderr) == (0, "")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "models/shapes/config.pbtxt", "models/shapes/labels.txt", "models/shapes/1/model.onnx",
        "models/shapes_preprocess/config.pbtxt", "models/shapes_preprocess/1/model.py",
        "models/shapes_preprocess/1/preprocess.py", "models/shapes_preprocess/1/preprocess.json",
        "models/shapes_pictures/config.pbtxt", "models/shapes_pictures/1/README",
        "models_client_shapes/config.pbtxt", "models_client_shapes/client.py", "models_client_shapes/preprocess.py",
        "models_client_shapes/preprocess.json",
    }  # fmt: skip
    assert (tmp_path / "models/shapes/1/model.onnx").read_bytes() == (build / "model.onnx").read_bytes()
    assert (tmp_path / "models/shapes/labels.txt").read_text() == "disc\nsquare\ntriangle\nstar\nring\n"
    config = (tmp_path / "models/shapes/config.pbtxt").read_text()
    for line in ('name: "shapes"', 'platform: "onnxruntime_onnx"', "count: 2", "kind: KIND_CPU", "dims: [1, 3, 256, 320]",
                 'name: "detection_masks"', "zero_data: true"):  # fmt: skip
        assert line in config
    kinds = dict(re.findall(r'output {\n  name: "(\w+)"\n  data_type: (\w+)', config))
    given = onnx.load(build / "model.onnx").graph.output
    held = {o.name: TensorProto.DataType.Name(o.type.tensor_type.elem_type) for o in given}
    assert kinds == {name: {"FLOAT": "TYPE_FP32", "INT32": "TYPE_INT32"}[kind] for name, kind in held.items()}
    for path in tmp_path.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")


@pytest.mark.parametrize("size", [(256, 320), (480, 640), (640, 480), (20, 400), (2000, 1000)])
def test_the_client_places_a_picture_as_infer_does(build: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    cli("package", build, "--triton", tmp_path / "models")
    folder = tmp_path / "models_client_mask_rcnn"
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import numpy, preprocess\n"
        "pixels = preprocess.read(open(sys.argv[2], 'rb').read())\n"
        "tensor, placed = preprocess.place(pixels, preprocess.settings(sys.argv[1]))\n"
        "numpy.savez(sys.argv[3], tensor=tensor, placed=placed)"
    )
    subprocess.run([sys.executable, "-c", code, folder, tmp_path / "p.png", tmp_path / "placed.npz"], check=True)
    tensor, placement = Session(build).place(read_image(tmp_path / "p.png"))
    with np.load(tmp_path / "placed.npz") as placed:
        assert np.array_equal(placed["tensor"], tensor)
        assert tuple(placed["placed"]) == placement.resized


def test_other_models_stay_and_foreign_ones_are_refused(build: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "other").mkdir(parents=True)
    (tmp_path / "models" / "other" / "config.pbtxt").write_text('name: "other"\n')
    cli("package", build, "--triton", tmp_path / "models")
    again = cli("package", build, "--triton", tmp_path / "models")
    assert (again.returncode, (tmp_path / "models/other/config.pbtxt").read_text()) == (0, 'name: "other"\n')
    refused = cli("package", build, "--triton", tmp_path / "models", "--name", "other")
    told = "models/other: holds files that are no model of onnxgraft; give an empty or a new folder (--name)"
    assert_one_line_error(refused, told)
    assert [path.name for path in (tmp_path / "models" / "other").iterdir()] == ["config.pbtxt"]


def test_what_cannot_be_packed_is_refused(build: Path, tmp_path: Path) -> None:
    place = tmp_path / "models"
    for words, reason in (
        ((tmp_path, "--triton", place), f"{tmp_path}: no build (it has no manifest.json)"),
        ((build, "--triton", place, "--name", "../up"), "--name '../up': give letters, digits, '_', '-' and '.'"),
        ((build, "--triton", place, "--serve", "engine"),
         f"{build}: has no TensorRT engine (its target is onnxruntime): build with --target tensorrt on a machine with a GPU, "
         "or give --serve onnx"),
    ):  # fmt: skip
        assert_one_line_error(cli("package", *words), reason)
    assert not place.exists()


# -- a real server ---------------------------------------------------------------------------------------------

RUNS_ONNX = '''
import os
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        self.session = onnxruntime.InferenceSession(os.path.join(folder, "model.onnx"), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        answers = []
        for request in requests:
            feeds = {i.name: pb_utils.get_input_tensor_by_name(request, i.name).as_numpy() for i in self.session.get_inputs()}
            names = [o.name for o in self.session.get_outputs()]
            values = self.session.run(names, feeds)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(n, v) for n, v in zip(names, values)]))
        return answers
'''


def served(models: Path, folder: Path) -> tuple[subprocess.Popen[bytes], str, Path]:
    """A real tritonserver on loopback; its wheel has the Python backend alone, so ONNX Runtime runs within that."""
    assert SERVER
    home = Path(subprocess.run(
        [SERVER, "-c", "import importlib.util as u; print(u.find_spec('pytriton').submodule_search_locations[0])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()) / "tritonserver"  # fmt: skip
    shutil.copytree(home / "backends", folder / "backends")
    version = subprocess.run([SERVER, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], check=True,
                             capture_output=True, text=True).stdout.strip()  # fmt: skip
    stub = folder / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", stub)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = subprocess.run([SERVER, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], check=True,
                          capture_output=True, text=True).stdout.strip()  # fmt: skip
    for model in models.glob("*/1/model.py"):  # the stub of the wheel is not of this Python, and looks nowhere
        model.write_text(f"import sys; sys.path.append({site!r})\n" + model.read_text())
    log = folder / "log"
    command = [home / "bin" / "tritonserver", f"--model-repository={models}", f"--backend-directory={folder}/backends",
               "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]  # fmt: skip
    libraries = f"{home.parent.parent}/nvidia_pytriton.libs:{os.environ.get('LD_LIBRARY_PATH', '')}"
    env = {**os.environ, "LD_LIBRARY_PATH": libraries}
    server = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=env, start_new_session=True)
    return server, f"127.0.0.1:{port}", log


def stopped(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(server.pid, 15)
        server.wait(30)
    with contextlib.suppress(ProcessLookupError):  # its Python backend, after a crash
        os.killpg(server.pid, 9)


def ready(server: subprocess.Popen[bytes], url: str) -> bool:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://{url}/v2/health/ready", timeout=1) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                return False
            time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def repository(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    cli("package", build, "--triton", folder / "models", "--ensemble", "--name", "shapes")
    config = folder / "models" / "shapes" / "config.pbtxt"
    config.write_text(config.read_text().replace('platform: "onnxruntime_onnx"', 'backend: "python"')
                      .replace('default_model_filename: "model.onnx"', 'default_model_filename: "model.py"'))  # fmt: skip
    (folder / "models" / "shapes" / "1" / "model.py").write_text(RUNS_ONNX)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[str]:
    folder = repository / "server"
    folder.mkdir()
    process, url, log = served(repository / "models", folder)
    try:
        assert ready(process, url), log.read_text()[-3000:]
        yield url
    finally:
        stopped(process)


@needs_triton
@pytest.mark.slow
def test_answers_over_http_are_those_of_infer(build: Path, repository: Path, server: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scene.png"), draw(5, (480, 640))[0])
    command = [SERVER, repository / "models_client_shapes" / "client.py", tmp_path / "scene.png", "--url", server]
    done = subprocess.run([*map(str, command), "--min-score", "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["detections"]
    (result,) = Session(build, engine="onnxruntime").run([tmp_path / "scene.png"])
    wanted = result.found.detections
    assert len(told) >= len(wanted) > 5  # `infer` leaves out boxes that are empty on the picture
    kept = [row for row in told if row["box"][2] > row["box"][0] and row["box"][3] > row["box"][1]]
    assert [row["class"] for row in kept] == wanted.classes.tolist()
    np.testing.assert_allclose([row["score"] for row in kept], wanted.scores, atol=1e-5)
    np.testing.assert_allclose([row["box"] for row in kept], wanted.boxes, atol=1e-2)


@needs_triton
@pytest.mark.slow
def test_the_ensemble_takes_the_bytes_of_a_picture(build: Path, server: str, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scene.png"), draw(6, (480, 640))[0])
    code = (
        "import sys, json, numpy, tritonclient.http as t\n"
        "data = numpy.frombuffer(open(sys.argv[2], 'rb').read(), numpy.uint8)\n"
        "i = t.InferInput('picture', [len(data)], 'UINT8'); i.set_data_from_numpy(data)\n"
        "r = t.InferenceServerClient(sys.argv[1]).infer('shapes_pictures', [i])\n"
        "print(json.dumps([r.as_numpy(n).tolist() for n in ('num_detections', 'detection_scores', 'placement')]))"
    )
    assert SERVER
    done = subprocess.run([SERVER, "-c", code, server, str(tmp_path / "scene.png")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, scores, placement = json.loads(done.stdout)
    (result,) = Session(build, engine="onnxruntime").run([tmp_path / "scene.png"])
    np.testing.assert_allclose(scores[0][: count[0][0]], result.raw.scores, atol=1e-5)
    assert placement == [*map(float, result.placement.resized), 480.0, 640.0]
    (tmp_path / "scene.png").write_bytes(b"no picture")
    refused = subprocess.run([SERVER, "-c", code, server, str(tmp_path / "scene.png")], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "not a readable picture" in refused.stderr


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [("[1, 3, 64, 64]", "float32", "unexpected shape for input 'input_tensor'"), ("SHAPE", "uint8", "expects 'FP32'")],
)
def test_a_request_of_another_shape_or_type_is_refused(
    build: Path, server: str, shape: str, dtype: str, reason: str
) -> None:
    """In one line, and the server goes on."""
    assert SERVER
    shape = shape.replace("SHAPE", str(list(Session(build).manifest.io.image.shape)))
    code = (
        "import sys, numpy, tritonclient.http as t\n"
        f"a = numpy.zeros({shape}, numpy.{dtype})\n"
        "i = t.InferInput('input_tensor', list(a.shape), t.np_to_triton_dtype(a.dtype)); i.set_data_from_numpy(a)\n"
        "t.InferenceServerClient(sys.argv[1]).infer('shapes', [i])\n"
    )
    refused = subprocess.run([SERVER, "-c", code, server], capture_output=True, text=True)
    assert refused.returncode == 1
    assert reason in refused.stderr.splitlines()[-1]
    with urllib.request.urlopen(f"http://{server}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200


@needs_triton
@pytest.mark.slow
def test_the_client_tells_in_one_line_that_nobody_serves(repository: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scene.png"), draw(5, (480, 640))[0])
    command = [SERVER, repository / "models_client_shapes" / "client.py", tmp_path / "scene.png", "--url", "127.0.0.1:9"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 127.0.0.1:9: ")
    assert done.stderr.count("\n") == 1


@needs_triton
@pytest.mark.slow
def test_a_misspelt_field_is_refused_by_the_server(build: Path, tmp_path: Path) -> None:
    """So the config of the tests above was parsed, and not passed over."""
    cli("package", build, "--triton", tmp_path / "models")
    config = tmp_path / "models" / "mask_rcnn" / "config.pbtxt"
    config.write_text(config.read_text().replace("instance_group", "instance_groups"))
    process, url, log = served(tmp_path / "models", tmp_path)
    try:
        assert not ready(process, url)
        assert "failed to read text proto" in log.read_text()
    finally:
        stopped(process)
