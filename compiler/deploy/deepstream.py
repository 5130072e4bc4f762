"""What DeepStream's nvinfer needs of a build: its configuration, labels, and the parser of its outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxgraft.deploy.build import Packed, copy_network
from onnxgraft.deploy.cpp import refuse_other_inputs
from onnxgraft.deploy.rendering import copy, render
from onnxgraft.detector.outputs import TENSORS, Role
from onnxgraft.driver.build_folder import new_folder
from onnxgraft.errors import InputError
from onnxgraft.options import Size

CONFIG, MARK = "config_infer.txt", "# Written by onnxgraft"
_HD = (1080, 1920)


def write(packed: Packed, place: Path) -> list[Path]:
    """Write the folder.

    Args:
        packed: the build, for TensorRT: its engine, or the graph with plugins.
        place: the folder; one of ours is replaced.

    Returns:
        The folders that were written.

    Raises:
        InputError: the folder holds something else or cannot be written, or nvinfer cannot run the network.
    """
    _refuse(packed)
    if not packed.is_engine:  # of which nvinfer makes one: not the form that ONNX Runtime runs
        packed = replace(packed, network=packed.network.with_name(packed.manifest.model))
    file = "model.engine" if packed.is_engine else "model.onnx"
    io = packed.manifest.io
    shapes = {tensor.name: tensor.shape for tensor in packed.outputs}
    with new_folder(place, is_ours, "DeepStream package of onnxgraft", "--deepstream") as folder:
        for template in (CONFIG, "CMakeLists.txt", "README.md", "settings.hpp"):
            render(
                f"deepstream/{template}.j2", folder / template, packed, file=file, canvas=io.image.canvas, batch=io.image.batch,
                nhwc=io.image.layout == "NHWC", rgb=io.image.order == "RGB", normalized=io.boxes == "normalized",
                classes=len(packed.labels.splitlines()), classifies=TENSORS[Role.CLASSES] in shapes,
                masks=TENSORS[Role.MASKS] in shapes, keypoints=TENSORS[Role.HEATMAPS] in shapes,
                detections=shapes[TENSORS[Role.SCORES]][1], content=io.content, wide=Size(*filled(_HD, io.image.canvas)),
            )  # fmt: skip
        copy("deepstream/parser.cpp", folder / "parser.cpp")
        copy("cpp/onnxgraft.hpp", folder / "onnxgraft.hpp")
        (folder / "labels.txt").write_text(packed.labels.replace(";", ","))  # nvinfer ends a label at a semicolon
        copy_network(packed, folder / file)
    return [place]


def filled(frame: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the canvas that nvinfer fills with a frame, both (height, width) in pixels.

    As get_converted_buffer of gstnvinfer.cpp computes it: the frame's shape is kept, and fractions are cut off.
    """
    height = canvas[1] * frame[0] / frame[1]
    if height <= canvas[0]:
        return int(height), canvas[1]
    return canvas[0], int(canvas[0] * frame[1] / frame[0])


def _refuse(packed: Packed) -> None:
    """Raises InputError for what nvinfer cannot run."""
    refuse_other_inputs(packed, "--deepstream")
    io = packed.manifest.io
    if packed.manifest.target != "tensorrt":
        raise InputError(f"--deepstream: nvinfer runs TensorRT, and this build is for {packed.manifest.target}: "
                         "build with --target tensorrt (--no-engine where there is no GPU)")  # fmt: skip
    if io.image_sizes:
        raise InputError("--deepstream: nvinfer has nothing for the input image_sizes: "
                         "build with --content-size HEIGHTxWIDTH, which makes it a constant")  # fmt: skip
    if io.image.dtype != "float32":
        raise InputError(f"--deepstream: nvinfer gives float32, and this build takes {io.image.dtype}: "
                         "build without --input-dtype")  # fmt: skip


def is_ours(folder: Path) -> bool:
    """Whether a folder was written here."""
    path = folder / CONFIG
    return path.is_file() and path.read_bytes().startswith(MARK.encode())
