"""A C++ program of a build: its header against the runtime, and the program itself against infer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from helpers.cli import assert_one_line_error, cli

import onnxgraft
from onnxgraft import Options
from onnxgraft.deploy.rendering import as_cpp
from onnxgraft.golden.catalog import ROOT
from onnxgraft.golden.scenes import draw
from onnxgraft.runtime import keypoints, masks
from onnxgraft.runtime.images import ResizeRule, place

COMPILER = shutil.which("c++") or shutil.which("g++")
HEADER = os.environ.get("ONNXRUNTIME_INCLUDE")
TENSORRT, CUDA = os.environ.get("TENSORRT_INCLUDE"), os.environ.get("CUDA_INCLUDE")
PICTURES = sorted((ROOT / "mask_rcnn" / "images").glob("*.jpg"))
SOURCES = Path(onnxgraft.__file__).parent / "deploy" / "templates" / "cpp"
MEAN = (103.53, 116.28, 123.675)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def missing() -> str:
    """What the program cannot be built without, and is not here."""
    if COMPILER is None or shutil.which("cmake") is None:
        return "no C++ compiler, or no cmake"
    if not any(Path(p).is_dir() for p in ("/usr/include/opencv4", "/usr/local/include/opencv4")):
        return "OpenCV's headers are not installed"
    return "" if HEADER else "ONNXRUNTIME_INCLUDE names no folder with onnxruntime_c_api.h"


# -- the header alone ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("header") / "header"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    subprocess.run([str(COMPILER), *flags, str(Path(__file__).with_name("header.cpp")), "-o", str(program)], check=True)
    return program


def call(program: Path, data: bytes, *words: object) -> bytes:
    done = subprocess.run([program, *map(str, words)], input=data, capture_output=True, check=True)
    return done.stdout


@needs_compiler
@pytest.mark.parametrize("size", [(256, 320), (480, 640), (640, 480), (20, 400), (700, 301), (1, 1)])
@pytest.mark.parametrize(
    ("edges", "form", "area"),
    [((800, 1333), "NCHW BGR float32", (0, 0)), ((0, 0), "NHWC RGB uint8", (0, 0)), ((96, 128), "NHWC BGR float32", (0, 0)),
     ((800, 1333), "NCHW RGB float32", (180, 320))],
)  # fmt: skip
def test_the_header_places_a_picture_as_infer_does(
    header: Path, size: tuple[int, int], edges: tuple[int, int], form: str, area: tuple[int, int]
) -> None:
    layout, order, dtype = form.split()
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    flags = [int(layout == "NHWC"), int(order == "RGB"), int(dtype == "uint8")]
    given = call(header, picture.tobytes(), "place", *size, 256, 320, *edges, *flags, *MEAN, *area)
    tensor, placement = place(picture, (256, 320), ResizeRule(*edges), MEAN, layout, dtype, order, area if any(area) else None)  # type: ignore[arg-type]
    assert tuple(np.frombuffer(given[:8], np.int32)) == placement.resized
    far = np.abs(np.frombuffer(given[8:], dtype) - tensor.ravel().astype(np.float32))
    assert far.max() <= (size[0] > 2 * size[1])  # a tall picture's rows go first in some versions of Pillow


@needs_compiler
def test_the_header_pastes_masks_as_infer_does(header: Path) -> None:
    random = np.random.default_rng(2)
    size, count = (97, 131), 60
    probabilities = random.random((count, 28, 28), np.float32)
    probabilities[40:] = 0.5 + random.normal(0, 1e-6, (20, 28, 28))  # where rounding counts
    low = random.uniform(-20, 120, (count, 2))
    boxes = np.concatenate([low, low + random.uniform(0, 90, (count, 2))], 1).astype(np.float32)
    boxes[:3] = [[5, 5, 5, 9], [200, 5, 300, 9], [np.nan, 0, 9, 9]]  # no width, beside the picture, no box
    data = b"".join(box.tobytes() + mask.tobytes() for box, mask in zip(boxes, probabilities, strict=True))
    given = call(header, data, "paste", *size, 28, count).decode().splitlines()
    assert given == [entry["counts"] for entry in masks.encode(probabilities, boxes, size)]


@needs_compiler
def test_the_header_reads_keypoints_as_infer_does(header: Path) -> None:
    random = np.random.default_rng(3)
    maps = random.normal(0, 3, (12, 1, 28, 28)).astype(np.float32)
    low = random.uniform(0, 60, (12, 2))
    boxes = np.concatenate([low, low + random.uniform(0.1, 70, (12, 2))], 1).astype(np.float32)
    data = b"".join(box.tobytes() + heat.tobytes() for box, heat in zip(boxes, maps, strict=True))
    given = np.frombuffer(call(header, data, "keypoints", 0, 0, 28, 12), np.float32).reshape(12, 3)
    wanted = keypoints.decode(maps, boxes)[:, 0]
    assert np.array_equal(given[:, :2], wanted[:, :2])
    np.testing.assert_allclose(given[:, 2], wanted[:, 2], rtol=1e-5)


@needs_compiler
def test_class_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    names = ['say "a\\b"', "??/", "tab\there", "größe 犬 🐕", "%s\n", "\\x41", "0"]
    listed = "".join(f"  std::fputs({as_cpp(name)}, stdout), std::fputc(0, stdout);\n" for name in names)
    (tmp_path / "names.cpp").write_text("#include <cstdio>\nint main() {\n" + listed + "}\n")
    subprocess.run([str(COMPILER), "-std=c++17", tmp_path / "names.cpp", "-o", tmp_path / "names"], check=True)
    assert subprocess.run([tmp_path / "names"], capture_output=True, check=True).stdout.decode().split("\0")[:-1] == names


# -- the program -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch of two, whose answers do not depend on the canvas, so that it takes image sizes too."""
    folder = tmp_path_factory.mktemp("cpp") / "out"
    options = Options(target="onnxruntime", size=(256, 320), batch=2, exact_padding=True, checks=False, proof=False)
    onnxgraft.compile("mask_rcnn", folder, options)
    return folder


@pytest.fixture(scope="module")
def package(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("package") / "detector"
    done = cli("package", build, "--cpp", place)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{place}\n")
    return place


def configure(package: Path, folder: Path, **places: object) -> subprocess.CompletedProcess[str]:
    defines = [f"-D{name}={value}" for name, value in places.items()]
    return subprocess.run(["cmake", "-S", package, "-B", folder, *defines], capture_output=True, text=True)


@pytest.fixture(scope="module")
def program(package: Path) -> Path:
    if missing():
        pytest.skip(missing())
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")
    done = configure(package, package / "build", ONNXRUNTIME_INCLUDE=HEADER, ONNXRUNTIME_LIBRARY=library)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(["cmake", "--build", package / "build"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return package / "build" / "detect"


@pytest.mark.slow
def test_the_program_finds_what_infer_finds(build: Path, program: Path, tmp_path: Path) -> None:
    scene = tmp_path / 'a "scene".png'
    cv2.imwrite(str(scene), draw(5, (200, 320))[0])
    pictures = [*PICTURES, scene]  # three: the second batch is filled up
    command = [program, "--json", tmp_path / "cpp.json", "--draw", tmp_path / "drawn", *pictures]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert cli("infer", build, *pictures, "--json", tmp_path / "infer.json").returncode == 0
    given, wanted = (json.loads((tmp_path / name).read_text()) for name in ("cpp.json", "infer.json"))
    assert [row["file"] for row in given] == [str(p) for p in pictures]
    for mine, row in zip(given, wanted, strict=True):
        assert list(mine) == list(row)
        assert len(row["boxes"]) > 20
        for exact in ("classes", "names", "masks"):
            assert mine[exact] == row[exact], exact
        np.testing.assert_allclose(mine["boxes"], row["boxes"], atol=2e-4)
        np.testing.assert_allclose(mine["scores"], row["scores"], atol=2e-6)
    drawn = cv2.imread(str(tmp_path / "drawn" / 'a "scene".png'))
    assert drawn.shape == (200, 320, 3)
    assert (drawn != cv2.imread(str(scene))).any()


@pytest.mark.slow
def test_what_the_program_cannot_do_is_one_line(program: Path, package: Path, conv_net: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    for words, told in (
        ((), "usage: detect [--model FILE] [--json FILE] [--draw FOLDER] [--min-score S] PICTURE..."),
        (("--all",), "unknown option --all"),
        (("--json",), "--json needs a value"),
        ((tmp_path / "text.jpg",), f"{tmp_path}/text.jpg: not a readable picture"),
        ((tmp_path / "none.jpg",), f"{tmp_path}/none.jpg: not a readable picture"),
        (("--model", tmp_path / "text.jpg", PICTURES[0]), "Protobuf parsing failed"),
        (("--model", conv_net, PICTURES[0]), f"{conv_net}: has no input_tensor, so it is not the network that this program"),
        (("--json", tmp_path / "no" / "x.json", PICTURES[0]), "no/x.json: cannot be written"),
    ):  # fmt: skip
        done = subprocess.run([program, *map(str, words)], capture_output=True, text=True)
        assert_one_line_error(done, told)


@pytest.mark.skipif(shutil.which("cmake") is None or not Path("/usr/include/opencv4").is_dir(), reason="no cmake, or no OpenCV")
def test_a_missing_header_is_named(package: Path, tmp_path: Path) -> None:
    for backend, header in (("onnxruntime", "onnxruntime_c_api.h"), ("tensorrt", "NvInfer.h")):
        done = configure(package, tmp_path / backend, BACKEND=backend)
        assert done.returncode != 0
        assert f"{header} is missing: give -D" in done.stderr
    assert "BACKEND=mine: give onnxruntime or tensorrt" in configure(package, tmp_path / "x", BACKEND="mine").stderr


@needs_compiler
@pytest.mark.skipif(not (TENSORRT and CUDA), reason="TENSORRT_INCLUDE and CUDA_INCLUDE name no folders with NVIDIA's headers")
@pytest.mark.parametrize("plugins", [True, False])
def test_the_other_back_end_compiles_against_tensorrt(plugins: bool) -> None:
    folders = [f"-isystem{folder}" for folder in f"{TENSORRT}:{CUDA}".split(":")]
    flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *([] if plugins else ["-DWITHOUT_PLUGINS"])]
    done = subprocess.run([str(COMPILER), *flags, *folders, str(SOURCES / "tensorrt.cpp")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- what is refused -------------------------------------------------------------------------------------------


def test_a_program_is_made_anew_and_other_folders_stay(build: Path, package: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in package.iterdir() if p.name != "build")
    assert before == ["CMakeLists.txt", "README.md", "main.cpp", "model.hpp", "model.onnx", "network.hpp", "onnxgraft.hpp",
                      "onnxruntime.cpp", "tensorrt.cpp"]  # fmt: skip
    other = tmp_path / "other"
    other.mkdir()
    (other / "CMakeLists.txt").write_text("project(other)\n")
    told = "other: holds files that are no C++ program of onnxgraft; give an empty or a new folder (--cpp)"
    assert_one_line_error(cli("package", build, "--cpp", other), told)
    assert [p.name for p in other.iterdir()] == ["CMakeLists.txt"]


def test_what_has_no_effect_or_does_not_fit_is_refused(build: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    for words, reason in (
        ((), "give what it is packed for: --triton, --cpp or --deepstream"),
        (("--cpp", tmp_path / "x", "--ensemble"), "--ensemble has no effect here: give --triton too"),
        (("--cpp", tmp_path / "x", "--class-names", tmp_path / "names.txt"),
         f"{tmp_path}/names.txt: 2 class names, but the network has 5 classes"),
    ):  # fmt: skip
        assert_one_line_error(cli("package", build, *words), reason)
    assert not (tmp_path / "x").exists()
