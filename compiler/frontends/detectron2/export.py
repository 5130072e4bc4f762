"""Export of detectron2 models to ONNX for the compiler (`onnxgraft export`; needs the extra [export]).

This module imports without torch and detectron2; they are loaded by the first export. A config is a program (yaml
files may hold Python tags, LazyConfigs are Python): export only what you trust. A checkpoint is a pickle, of which only
numbers are read unless it is trusted.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxgraft.errors import InputError
from onnxgraft.files import write_atomically, write_json

if TYPE_CHECKING:
    import onnx

DEFAULT_SIZE = (640, 640)
STRIDE = 32  # sample images are multiples of it, so that nothing is padded in the trace


@dataclass(frozen=True)
class Exported:
    """What an export left: the model, its sidecar, and what is worth saying about them."""

    model: Path
    sidecar: Path
    family: str
    opset: int
    notes: tuple[str, ...] = ()


def export(
    config: str | Path,
    output: str | Path,
    *,
    weights: str | None = None,
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    image: str | Path | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> Exported:
    """Export the detector of a detectron2 config to `output` (.onnx) with a sidecar beside it (.json).

    `config` is a yaml file, a LazyConfig .py, or a name in detectron2's model zoo; `weights` a .pkl or .pth file, a URL
    that detectron2 knows, or "random"; without it the config's own. `overrides` are KEY VALUE pairs or KEY=VALUE items of
    the config. The trace does not depend on the picture: `image` (any picture, resized by the config's rule) or none.
    `trust` loads weights that are more than numbers, which may run code of their author.
    `size` is the height and width of the traced input (640, 640); the compiler fixes its own. A model that pads every image
    to one square is traced at that; windows and positions of a transformer hold for the traced size.

    Raises:
        InputError: torch or detectron2 is missing, the config, a key of it, the weights or the image cannot be used, or
            the model has a part that is not known to export faithfully.
    """
    require()
    target = Path(output)
    if target.suffix != ".onnx":
        raise InputError(f"{target}: the name of an exported model ends in .onnx")
    if size is not None and any(side < STRIDE or side % STRIDE for side in size):
        raise InputError(f"size {size[0]}x{size[1]}: height and width must be multiples of {STRIDE}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # detectron2's own imports
        from onnxgraft.frontends.detectron2 import checkpoints, config_numbers, configs, supported, tracing
        from onnxgraft.frontends.detectron2.families import family_of

    source = configs.load(config, overrides)
    supported.refuse_unknown(source.model)
    family = family_of(source.model)
    notes = checkpoints.load(source, weights, trust)
    least = tracing.smallest_opset(source.model)
    if opset is not None and opset < least:
        raise InputError(f"opset {opset} cannot say what this model computes; it needs {least} or higher")
    traced, edges = supported.size_of_trace(source.model, size), config_numbers.edges(source.config)
    picture = sample(traced, image, edges, config_numbers.channel_order(source.config))
    notes += supported.notes_on_size(source.model, *picture.shape[:2])
    exported = tracing.export(source.model, picture, opset or least, family=family)
    beside = config_numbers.sidecar(source, picture.shape[:2])
    write(target, exported, beside)
    return Exported(target, target.with_suffix(".json"), family.name, opset or least, tuple(notes))


def require() -> None:
    """Raises InputError that says what to install when torch or detectron2 is missing."""
    missing = [name for name in ("torch", "detectron2") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"export needs {' and '.join(missing)}: pip install 'onnxgraft[export]', then detectron2 from its source "
            "(pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2')"
        )


def sample(size: tuple[int, int] | None, image: str | Path | None, edges: tuple[int, int], order: str = "BGR") -> np.ndarray:
    """A uint8 image [H,W,3] to trace with: `image` in the size the config asks for, or drawn noise.

    `edges` are the shortest and longest edge of the config's resize rule, used when no `size` is given.
    """
    if image is None:
        height, width = size or DEFAULT_SIZE
        return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    import cv2

    try:
        data = np.frombuffer(Path(image).read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{image}: {(error.strerror or str(error)).lower()}") from error
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise InputError(f"{image}: not a picture that can be read")
    if size is None:
        height, width = picture.shape[:2]
        scale = min(edges[0] / min(height, width), edges[1] / max(height, width))
        size = (_multiple(height * scale), _multiple(width * scale))
    picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(picture[:, :, ::-1] if order == "RGB" else picture)


def _multiple(side: float) -> int:
    return max(STRIDE, round(side / STRIDE) * STRIDE)


def write(target: Path, model: onnx.ModelProto, sidecar: dict[str, Any]) -> None:
    """Write the model and its sidecar, each in one step. Raises InputError if the folder cannot be written."""
    write_atomically(target, model.SerializeToString(deterministic=True))
    write_json(target.with_suffix(".json"), sidecar)
