"""What a package needs to know of the build that it is made from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxgraft.detector.outputs import OUTPUTS
from onnxgraft.errors import InputError
from onnxgraft.files import inside
from onnxgraft.manifest import IMAGE_SIZES, MANIFEST, GraphIO, Manifest
from onnxgraft.runtime import class_names

_TYPES = {output.tensor: output.dtype for output in OUTPUTS}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the network: its name, shape and NumPy dtype, such as "float32"."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Packed:
    """A build that is going to be packed.

    Attributes:
        name: of the model where it is served.
        manifest: of the build.
        names: of the classes; empty where they are not known.
        network: the file that is served.
        inputs, outputs: in their order.
        is_engine: whether `network` is an engine; else ONNX, for ONNX Runtime on the CPU.
    """

    name: str
    manifest: Manifest
    names: tuple[str, ...]
    network: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    is_engine: bool

    @property
    def labels(self) -> str:
        """A line a class, in the order of `detection_classes`; numbers where the names are not known."""
        names = self.names or tuple(str(index) for index in range(self.manifest.classes or 1))
        return "".join(" ".join(name.split()) + "\n" for name in names)

    @classmethod
    def of(
        cls, folder: Path, name: str | None = None, wants_engine: bool | None = None,
        targets: Sequence[str] = ("tensorrt",), classes: Path | None = None,
    ) -> Packed:  # fmt: skip
        """Read a build.

        Args:
            folder: of the build.
            name: of the model; the name of the file that was compiled without it.
            wants_engine: True for the engine, False for ONNX, None for the engine where the build has one that is loaded.
            targets: whose engines are loaded where it goes.
            classes: a file of class names instead of the build's, see runtime.class_names.read.

        Raises:
            InputError: no build, no such file in it, a name that no path should have, or another number of class names.
        """
        manifest = Manifest.read(folder)
        names = manifest.class_names if classes is None else class_names.read(classes, manifest.classes)
        engine = manifest.engine if manifest.target in targets else None
        if wants_engine and engine is None:
            raise InputError(f"{folder}: has no TensorRT engine (its target is {manifest.target}): "
                             "build with --target tensorrt on a machine with a GPU, or give --serve onnx")  # fmt: skip
        is_engine = engine is not None and wants_engine is not False
        file = engine if is_engine else manifest.runnable
        network = inside(folder, str(file), MANIFEST)
        if not network.is_file():
            raise InputError(f"{network}: is not there; build it again")
        name = name or re.sub(r"[^A-Za-z0-9_-]+", "_", Path(manifest.source.model).stem).strip("_") or "detector"
        if not _NAME.fullmatch(name):
            raise InputError(f"--name {name!r}: give letters, digits, '_', '-' and '.'")
        inputs, outputs = tensors(manifest.io)
        return cls(name, manifest, names, network, inputs, outputs, is_engine)


def copy_network(packed: Packed, place: Path) -> None:
    """Copy the file that is served, and weights that stand beside it in files of their own, which keep their names."""
    shutil.copyfile(packed.network, place)
    for beside in packed.network.parent.glob(packed.network.name + ".*data"):
        shutil.copyfile(beside, place.parent / beside.name)


def tensors(io: GraphIO) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of a compiled graph. Raises InputError for one whose shapes are not fixed."""
    inputs = [Tensor(io.image.name, io.image.shape, io.image.dtype)]
    if io.image_sizes:
        inputs.append(Tensor(IMAGE_SIZES, (io.image.batch, 2), "float32"))
    if io.proposals is not None:
        inputs.append(Tensor(io.proposals.name, io.proposals.shape, "float32"))
    outputs = []
    for name, shape in io.outputs.items():
        fixed = tuple(side for side in shape if isinstance(side, int))
        if len(fixed) != len(shape):
            raise InputError(f"output {name!r} has no fixed shape ({shape}): its passes stopped early; build it whole")
        outputs.append(Tensor(name, fixed, _TYPES.get(name, "float32")))
    return tuple(inputs), tuple(outputs)
