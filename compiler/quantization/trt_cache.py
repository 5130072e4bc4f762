"""TensorRT's own calibration cache: a header line, then `tensor: hex`, the big-endian float32 scale (amax / 127)."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from onnxgraft.errors import InputError
from onnxgraft.files import write_atomically

HEADER = "TRT-8501-EntropyCalibration2"
_LEVELS = 127.0


def is_cache(path: Path) -> bool:
    """Whether a file starts like one of TensorRT's calibration caches, of any version and calibrator."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"TRT-"
    except OSError:
        return False


def read(path: Path) -> dict[str, float]:
    """The largest magnitude by tensor name. Raises InputError for a missing, truncated or other file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a TensorRT calibration cache") from error
    if not lines or not lines[0].startswith("TRT-") or "Calibration" not in lines[0]:
        raise InputError(f"{path}: not a TensorRT calibration cache: its first line is not {HEADER!r} or alike")
    found: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, colon, digits = line.rpartition(": ")
        try:
            (scale,) = struct.unpack(">f", bytes.fromhex(digits.strip()))
        except (ValueError, struct.error):
            colon = ""
        if not colon or not name:
            raise InputError(f"{path}: line {number} is damaged; give the whole file, or calibrate again")
        if not math.isfinite(scale) or scale < 0:
            raise InputError(f"{path}: line {number}: the scale of {name!r} is {scale}; calibrate again")
        found[name] = scale * _LEVELS
    if not found:
        raise InputError(f"{path}: holds no tensor; calibrate again")
    return found


def write(amax: Mapping[str, float], path: Path) -> None:
    """Write the largest magnitudes as a cache that TensorRT 8 and 10 read. Raises InputError."""
    lines = [HEADER]
    for name in amax:
        lines.append(f"{name}: {struct.pack('>f', amax[name] / _LEVELS).hex()}")
    write_atomically(path, ("\n".join(lines) + "\n").encode())
