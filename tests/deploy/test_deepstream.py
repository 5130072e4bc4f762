"""A folder for DeepStream: its parser on real outputs, its configuration in nvinfer's own parser, and what is refused.

NVIDIA's public headers are found by the environment, as docs/deepstream.md says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cli import assert_one_line_error, cli
from numpy.typing import NDArray

import onnxgraft
from onnxgraft import Options
from onnxgraft.deploy import deepstream
from onnxgraft.deploy.build import Packed
from onnxgraft.errors import InputError
from onnxgraft.golden.catalog import ROOT
from onnxgraft.manifest import Manifest
from onnxgraft.runtime import keypoints
from onnxgraft.runtime.images import read_image
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import Session

SIZE = (256, 320)
CONTENT = (180, 320)  # what 1920x1080 fills
COMPILER = shutil.which("c++") or shutil.which("g++")
DEEPSTREAM = os.environ.get("DEEPSTREAM_SOURCE")
HEADERS = [f for name in ("TENSORRT_INCLUDE", "CUDA_INCLUDE") for f in os.environ.get(name, "").split(":") if f]
needs_headers = pytest.mark.skipif(
    not (COMPILER and DEEPSTREAM and HEADERS),
    reason="no C++ compiler, or DEEPSTREAM_SOURCE, TENSORRT_INCLUDE and CUDA_INCLUDE name no folders with NVIDIA's headers",
)


@pytest.fixture(scope="module")
def build(golden_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepstream") / "out"
    options = Options(target="tensorrt", engine=False, size=SIZE, content_size=CONTENT, checks=False, proof=False)
    onnxgraft.compile("mask_rcnn", folder, options)
    return folder


@pytest.fixture(scope="module")
def package(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("package") / "detector"
    done = cli("package", build, "--deepstream", place)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{place}\n")
    return place


def settings(config: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z-]+)=(.*)$", config.read_text(), re.M))


def other_outputs(build: Path, folder: Path, **outputs: list[int] | None) -> Path:
    """The build with other outputs in its manifest; None takes one away."""
    shutil.copytree(build, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    held = {**manifest["io"]["outputs"], **outputs}
    manifest["io"]["outputs"] = {name: shape for name, shape in held.items() if shape is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


# -- what is written -------------------------------------------------------------------------------------------


def test_what_stands_in_the_folder(build: Path, package: Path) -> None:
    assert sorted(p.name for p in package.iterdir()) == [
        "CMakeLists.txt", "README.md", "config_infer.txt", "labels.txt", "model.onnx", "onnxgraft.hpp", "parser.cpp",
        "settings.hpp",
    ]  # fmt: skip
    assert (package / "model.onnx").read_bytes() == (build / "model.onnx").read_bytes()  # with plugins, not the runnable form
    assert (package / "labels.txt").read_text() == "disc\nsquare\ntriangle\nstar\nring\n"
    told = settings(package / "config_infer.txt")
    assert told["output-blob-names"].split(";") == list(Manifest.read(build).io.outputs)
    assert (told["network-type"], told["num-detected-classes"], told["infer-dims"]) == ("3", "5", "3;256;320")
    assert "for frames that fill 320x180 (width x height)" in (package / "README.md").read_text()


def test_boxes_and_keypoints_alone(build: Path, tmp_path: Path) -> None:
    boxes = other_outputs(build, tmp_path / "boxes", detection_masks=None)
    deepstream.write(Packed.of(boxes), tmp_path / "b")
    told = settings(tmp_path / "b" / "config_infer.txt")
    assert (told["network-type"], told["parse-bbox-func-name"]) == ("0", "NvDsInferParseOnnxgraft")
    assert not {"output-instance-mask", "output-tensor-meta"} & set(told)
    points = other_outputs(build, tmp_path / "points", detection_masks=None, detection_keypoint_heatmaps=[1, 100, 17, 56, 56])
    deepstream.write(Packed.of(points), tmp_path / "k")
    assert settings(tmp_path / "k" / "config_infer.txt")["output-tensor-meta"] == "1"
    assert "OnnxgraftKeypoints" in (tmp_path / "k" / "README.md").read_text()


@pytest.mark.parametrize(
    ("frame", "canvas", "wanted"),
    [((1080, 1920), (800, 1344), (756, 1344)), ((1080, 1920), (800, 1216), (684, 1216)),
     ((1920, 1080), (1344, 800), (1344, 756)), ((480, 640), (800, 1344), (800, 1066)), ((800, 1344), (800, 1344), (800, 1344))],
)  # fmt: skip
def test_what_a_frame_fills(frame: tuple[int, int], canvas: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert deepstream.filled(frame, canvas) == wanted


# -- its parser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(package: Path) -> Path:
    """The parser, made as its README says."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    flags = " ".join(f"-isystem {folder}" for folder in HEADERS)
    defines = [
        f"-DDEEPSTREAM_INCLUDE={DEEPSTREAM}/includes",
        f"-DTENSORRT_INCLUDE={HEADERS[0]}",
        f"-DCUDA_INCLUDE={HEADERS[1]}",
    ]
    command = ["cmake", "-S", package, "-B", package / "build", *defines, f"-DCMAKE_CXX_FLAGS={flags} -Wall -Wextra -Werror"]
    for words in (command, ["cmake", "--build", package / "build"]):
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return package / "libnvdsinfer_onnxgraft.so"


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("caller") / "nvinfer_parser"
    folders = [f"-isystem{folder}" for folder in (f"{DEEPSTREAM}/includes", *HEADERS)]
    source = Path(__file__).with_name("nvinfer_parser.cpp")
    subprocess.run([str(COMPILER), "-std=c++17", *folders, source, "-ldl", "-o", program], check=True)
    return program


def parse(
    caller: Path, library: Path, function: str, outputs: dict[str, NDArray[Any]], threshold: float = 0.0
) -> subprocess.CompletedProcess[bytes]:
    """What the parser makes of one frame's outputs: nvinfer's layers have no batch axis."""
    words: list[object] = []
    for name, array in outputs.items():
        words += [name, array.dtype.name, array.ndim - 1, *array.shape[1:]]
    command = [caller, library, function, SIZE[1], SIZE[0], 5, threshold, *words]
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in outputs.values())
    return subprocess.run([*map(str, command)], input=data, capture_output=True)


@pytest.fixture(scope="module")
def answers(build: Path) -> list[tuple[dict[str, NDArray[Any]], Any]]:
    """Outputs of the golden pictures, and the detections in them on the canvas."""
    session = Session(build, engine="onnxruntime")
    found = []
    for path in sorted((ROOT / "mask_rcnn" / "images").glob("*.jpg")):
        outputs = session.run_feeds(session.feeds([session.place(read_image(path))]))
        found.append((outputs, from_outputs(outputs, session.manifest.io)))
    return found


@needs_headers
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_parser_finds_all_objects(caller: Path, library: Path, answers: list[Any], threshold: float) -> None:
    for outputs, wanted in answers:
        kept = wanted.select((wanted.scores >= threshold) & (wanted.boxes[:, 2:] > wanted.boxes[:, :2]).all(axis=1))
        assert len(kept) > 2
        done = parse(caller, library, "NvDsInferParseOnnxgraftMasks", outputs, threshold)
        assert (done.returncode, done.stderr) == (0, b"")
        objects = np.frombuffer(done.stdout, np.float32).reshape(len(kept), -1)
        assert np.array_equal(objects[:, 0], kept.classes)
        assert np.array_equal(objects[:, 1:5], np.concatenate([kept.boxes[:, :2], kept.boxes[:, 2:] - kept.boxes[:, :2]], 1))
        assert np.array_equal(objects[:, 5], kept.scores)
        assert np.array_equal(objects[:, 6:].reshape(kept.masks.shape), kept.masks)
        done = parse(caller, library, "NvDsInferParseOnnxgraft", outputs, threshold)
        assert np.array_equal(np.frombuffer(done.stdout, np.float32).reshape(len(kept), 6), objects[:, :6])


@needs_headers
def test_outputs_are_found_by_name(caller: Path, library: Path, answers: list[Any]) -> None:
    outputs, _ = answers[0]
    turned = dict(reversed(outputs.items()))
    one, other = (parse(caller, library, "NvDsInferParseOnnxgraftMasks", o).stdout for o in (outputs, turned))
    assert one == other != b""


@needs_headers
def test_keypoints_of_a_frame(caller: Path, library: Path, answers: list[Any]) -> None:
    outputs, found = answers[0]
    maps = np.random.default_rng(4).normal(0, 3, (1, 100, 3, 14, 14)).astype(np.float32)
    done = parse(caller, library, "OnnxgraftKeypoints", {**outputs, "detection_keypoint_heatmaps": maps})
    points = np.frombuffer(done.stdout, np.float32).reshape(len(found), 3, 3)
    wanted = keypoints.decode(maps[0, : len(found)], found.boxes)
    assert np.array_equal(points[..., :2], wanted[..., :2])
    np.testing.assert_allclose(points[..., 2], wanted[..., 2], rtol=1e-5)


@needs_headers
def test_another_networks_outputs_are_told(caller: Path, library: Path, answers: list[Any]) -> None:
    outputs, _ = answers[0]
    masks, boxes = "NvDsInferParseOnnxgraftMasks", "detection_boxes"
    without = {left: {name: array for name, array in outputs.items() if name != left} for left in (boxes, "detection_masks")}
    for changed, words in (
        (without[boxes], b"the network does not give num_detections, detection_boxes"),
        (without["detection_masks"], b"the network gives no detection_masks"),
        ({**outputs, boxes: outputs[boxes].astype(np.int32)}, b"output detection_boxes has another type"),
    ):  # fmt: skip
        done = parse(caller, library, masks, changed)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"onnxgraft: ")
        assert words in done.stderr


# -- nvinfer's own reading of the configuration ----------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    modules = ["gstreamer-1.0", "gstreamer-base-1.0", "gstreamer-video-1.0"]
    asked = (
        subprocess.run(["pkg-config", "--cflags", "--libs", *modules], capture_output=True, text=True)
        if shutil.which("pkg-config")
        else None
    )
    if asked is None or asked.returncode:
        pytest.skip("GStreamer's headers are not installed")
    program = tmp_path_factory.mktemp("reader") / "nvinfer_config"
    own = Path(str(DEEPSTREAM)) / "src" / "gst-plugins" / "gst-nvinfer"
    folders = [f"-I{own}", f"-I{DEEPSTREAM}/includes", *(f"-isystem{folder}" for folder in HEADERS)]
    sources = [Path(__file__).with_name("nvinfer_config.cpp"), own / "gstnvinfer_property_parser.cpp"]
    command = [
        str(COMPILER),
        "-std=c++17",
        "-w",
        "-fpermissive",
        *folders,
        *map(str, sources),
        *asked.stdout.split(),
        "-o",
        program,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if "nvToolsExt.h" in done.stderr:
        pytest.skip("CUDA_INCLUDE names no folder with nvtx3/nvToolsExt.h")
    assert done.returncode == 0, done.stderr
    return program


@needs_headers
@pytest.mark.slow
def test_nvinfer_reads_the_configuration(reader: Path, package: Path, build: Path, tmp_path: Path) -> None:
    done = subprocess.run([reader, package / "config_infer.txt"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")  # an unknown key would be told
    read = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert read["onnx"] == str(package / "model.onnx")
    assert read["library"] == str(package / "libnvdsinfer_onnxgraft.so")
    assert read["outputs"].split() == list(Manifest.read(build).io.outputs)
    assert (read["kind"], read["clustering"], read["typed"], read["classes"], read["batch"]) == ("3", "4", "1", "5", "1")
    assert (read["dims"], read["scale"], read["format"], read["order"]) == ("3 256 320", "1", "1", "0")
    assert (read["keeps"], read["threshold"]) == ("shape 1 0", "0.5 100")
    points = other_outputs(build, tmp_path / "points", detection_masks=None, detection_keypoint_heatmaps=[1, 100, 17, 56, 56])
    deepstream.write(Packed.of(points), tmp_path / "k")
    done = subprocess.run([reader, tmp_path / "k" / "config_infer.txt"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"attached 1", "boxes NvDsInferParseOnnxgraft", "kind 0"} <= set(done.stdout.splitlines())


@needs_headers
@pytest.mark.slow
def test_nvinfer_tells_a_misspelt_key(reader: Path, package: Path, tmp_path: Path) -> None:
    """So the configuration of the test above was read, and not passed over."""
    (tmp_path / "config.txt").write_text((package / "config_infer.txt").read_text().replace("cluster-mode", "clustermode"))
    done = subprocess.run([reader, tmp_path / "config.txt"], capture_output=True, text=True)
    assert "Unknown or legacy key specified 'clustermode'" in done.stderr


# -- what is refused -------------------------------------------------------------------------------------------


def test_a_missing_header_is_named(package: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None or COMPILER is None:
        pytest.skip("no cmake, or no C++ compiler")
    done = subprocess.run(["cmake", "-S", package, "-B", tmp_path / "build"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "nvdsinfer_custom_impl.h is missing: give -DDEEPSTREAM_INCLUDE=FOLDER" in done.stderr


def test_what_nvinfer_cannot_run_is_refused(build: Path, tmp_path: Path) -> None:
    manifest = json.loads((build / "manifest.json").read_text())
    for place, value, reason in (
        (("target",), "onnxruntime", "nvinfer runs TensorRT, and this build is for onnxruntime: build with --target tensorrt"),
        (("io", "image_sizes"), True, "nvinfer has nothing for the input image_sizes: build with --content-size HEIGHTxWIDTH"),
        (("io", "input", "dtype"), "uint8", "nvinfer gives float32, and this build takes uint8: build without --input-dtype"),
        (("io", "proposals"), [1, 1000, 4], "this network takes proposals beside the picture"),
        (("io", "outputs"), {"semantic_logits": [1, 5, 64, 80]}, "this network has no output num_detections"),
    ):  # fmt: skip
        changed = json.loads(json.dumps(manifest))
        *way, last = place
        inner = changed
        for key in way:
            inner = inner[key]
        inner[last] = value
        folder = tmp_path / last
        shutil.copytree(build, folder)
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=re.escape(reason)):
            deepstream.write(Packed.of(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_folders_stay(build: Path, tmp_path: Path) -> None:
    (tmp_path / "config_infer.txt").write_text("[property]\n")
    told = f"{tmp_path}: holds files that are no DeepStream package of onnxgraft; give an empty or a new folder (--deepstream)"
    assert_one_line_error(cli("package", build, "--deepstream", tmp_path), told)
    assert [p.name for p in tmp_path.iterdir()] == ["config_infer.txt"]
