"""A program in C++ that runs a build: its sources, and the network beside them."""

from __future__ import annotations

from pathlib import Path

from onnxgraft.deploy.build import Packed, copy_network
from onnxgraft.deploy.rendering import copy, render
from onnxgraft.detector.outputs import TENSORS, Role
from onnxgraft.driver.build_folder import new_folder
from onnxgraft.errors import InputError

ENGINES = ("tensorrt", "tensorrt-rtx")
CMAKE, MARK = "CMakeLists.txt", "# Written by onnxgraft"
_SOURCES = ("main.cpp", "network.hpp", "onnxgraft.hpp", "onnxruntime.cpp", "tensorrt.cpp")


def write(packed: Packed, place: Path) -> list[Path]:
    """Write the program's folder.

    Args:
        packed: the build; an engine of TensorRT or TensorRT for RTX, or ONNX.
        place: the folder; one of ours is replaced.

    Returns:
        The folders that were written.

    Raises:
        InputError: the folder holds something else or cannot be written, or the network takes more than a picture, or
            detects nothing.
    """
    refuse_other_inputs(packed, "--cpp")
    file = "model.engine" if packed.is_engine else "model.onnx"
    io, preprocess = packed.manifest.io, packed.manifest.preprocess
    with new_folder(place, is_ours, "C++ program of onnxgraft", "--cpp") as folder:
        for template in (CMAKE, "README.md"):
            render(f"cpp/{template}.j2", folder / template, packed, file=file)
        render(
            "cpp/model.hpp.j2", folder / "model.hpp", packed, names=packed.names, canvas=io.image.canvas, area=io.area,
            batch=io.image.batch, nhwc=io.image.layout == "NHWC", rgb=io.image.order == "RGB",
            mean=preprocess.mean_in(io.image.order), shortest_edge=preprocess.shortest_edge,
            longest_edge=preprocess.longest_edge, normalized=io.boxes == "normalized",
        )  # fmt: skip
        for source in _SOURCES:
            copy(f"cpp/{source}", folder / source)
        copy_network(packed, folder / file)
    return [place]


def refuse_other_inputs(packed: Packed, flag: str) -> None:
    """Raises InputError for a network that takes proposals beside the picture, or gives no boxes."""
    if packed.manifest.io.proposals is not None:
        raise InputError(f"{flag}: this network takes proposals beside the picture, which nobody there has")
    missing = [TENSORS[role] for role in (Role.NUM_DETECTIONS, Role.BOXES, Role.SCORES)]
    missing = [name for name in missing if name not in packed.manifest.io.outputs]
    if missing:
        raise InputError(f"{flag}: this network has no output {missing[0]}, so it detects nothing")


def is_ours(folder: Path) -> bool:
    """Whether a folder was written here."""
    path = folder / CMAKE
    return path.is_file() and path.read_bytes().startswith(MARK.encode())
