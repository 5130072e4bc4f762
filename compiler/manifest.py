"""manifest.json and times.json of a build folder: what was built, from what, what it takes and gives, how long it took.

Long because each field of both files is told here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from onnxgraft.atomic import recover
from onnxgraft.detector.panoptic import Combine
from onnxgraft.detector.spec import ImageInput
from onnxgraft.errors import InputError
from onnxgraft.files import parsed, plain, read_json, write_json

MANIFEST, TIMES = "manifest.json", "times.json"
VARIANTS = "variants"  # folder of the other canvases and batches of a build
IMAGE_SIZES, PROPOSALS_INPUT = "image_sizes", "proposals"  # names of a compiled graph's second inputs
Pixels = Literal["float32", "uint8"]
Layout = Literal["NCHW", "NHWC"]
Order = Literal["BGR", "RGB"]
Boxes = Literal["normalized", "pixels"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

_PACKAGES = ("onnxgraft", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy", "tensorrt-rtx-cu13", "tensorrt")
_AGAIN = "build it again"


@dataclass(frozen=True)
class ImageIO:
    """The image that a graph takes: pixels 0..255.

    Attributes:
        name: of the input.
        shape: [N, 3, H, W] or [N, H, W, 3]; without N in an export.
        dtype: float32 or uint8.
        layout: how the last three axes stand.
        order: which channel comes first.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Pixels = "float32"
    layout: Layout = "NCHW"
    order: Order = "BGR"

    @property
    def batch(self) -> int:
        """N; an export without a batch takes one image."""
        return self.shape[0] if len(self.shape) == 4 else 1

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.shape[-3:-1] if self.layout == "NHWC" else self.shape[-2:]
        return height, width


@dataclass(frozen=True)
class TensorIO:
    """Another input: its name and shape. A manifest has the shape alone, since a compiled graph's proposals have one name."""

    name: str
    shape: tuple[int, ...]

    def to_json(self) -> list[int]:
        return list(self.shape)

    @classmethod
    def from_json(cls, value: Any, where: str, key: str) -> TensorIO:
        return cls(PROPOSALS_INPUT, parsed(tuple[int, ...], value, where, key))


@dataclass(frozen=True)
class GraphIO:
    """What a graph takes and gives.

    Attributes:
        input: the image; None until a pass has named it.
        image_sizes: whether it also takes "image_sizes", float32 [N, 2]: height and width of each image on the canvas.
        proposals: of a Fast R-CNN, the boxes it classifies: float32 [N, P, 4] or, in an export, [R, 4], pixels of the canvas.
        outputs: shape by name, in their order.
        boxes: whether the boxes are in pixels of the canvas, or divided by its size.
        content: height and width of the part of the canvas that pictures lie on, where the graph sees no other; None for all.
    """

    input: ImageIO | None = None
    image_sizes: bool = False
    proposals: TensorIO | None = field(default=None, metadata={"omit": True})
    outputs: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    boxes: Boxes = "pixels"
    content: tuple[int, int] | None = field(default=None, metadata={"omit": True})

    @property
    def image(self) -> ImageIO:
        """The image input. Raises InputError where no pass has named it."""
        if self.input is None:
            raise InputError("the graph's input is not named: its passes stopped before normalize-input, so it cannot be run")
        return self.input

    @property
    def area(self) -> tuple[int, int]:
        """Height and width of what pictures are placed on. Raises InputError where no pass has named the image."""
        return self.content or self.image.canvas


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the input.

    Attributes:
        mean, std: of each channel in `order`, 0..255; the graph itself normalises, padding takes the mean.
        order: the channel order that the network was trained with.
        order_known: False where nothing told the order, and detectron2's default, or torchvision's of an SSD, is assumed.
        shortest_edge, longest_edge: detectron2's ResizeShortestEdge, in pixels.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: Order = "BGR"
    order_known: bool = False
    shortest_edge: int = 800
    longest_edge: int = 1333

    @classmethod
    def of(cls, image: ImageInput, edges: tuple[int, int] = (800, 1333)) -> Preprocess:
        """That of a recognised detector; `edges` are the shortest and the longest edge."""
        order: Order = "RGB" if image.order == "RGB" else "BGR"
        return cls(image.mean, image.std, order, image.order_known, *edges)

    def mean_in(self, order: str) -> tuple[float, float, float]:
        """The mean in another channel order."""
        first, second, third = self.mean
        return self.mean if order == self.order else (third, second, first)


@dataclass(frozen=True)
class Source:
    """The model that was compiled: as the user named it, its sha256, and its opset."""

    model: str
    sha256: str = ""
    opset: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a build folder says of itself.

    Attributes:
        target_reason: why this target was taken.
        calibration: where int8 ranges came from; None for other precisions.
        pipeline: the passes as text.
        options: CompileOptions, by field.
        model, runnable, engine: files of the folder: the compiled graph, what ONNX Runtime runs of it, and what the
            target built (None: nothing).
        panoptic: how a Panoptic FPN merges instances and stuff.
        spec: DetectorSpec.to_dict(); None when a pipeline of one's own recognised nothing.
        notes: sentences for the user.
        proof: what was proved of the answers (proof.prove.Proof.to_json()); None when nothing was to be.
        sizes, sha256: by file name, bytes and digests of the files beside this one.
        engine_info: what the builder told, times left out.
        trtexec: the command of NVIDIA's own tool that builds the same engine.
        variants: builds of the same model for other canvases and batches, folders of `variants/`.
    """

    onnxgraft: str = "unknown"
    source: Source = Source("unknown")
    target: str = "onnxruntime"
    target_reason: str = ""
    precision: Precision = "fp32"
    calibration: dict[str, Any] | None = None
    pipeline: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    model: str = "model.onnx"
    runnable: str
    engine: str | None = None
    io: GraphIO
    preprocess: Preprocess
    class_names: tuple[str, ...] = ()
    semantic_class_names: tuple[str, ...] = ()
    panoptic: Combine | None = field(default=None, metadata={"omit": True})
    spec: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    proof: dict[str, Any] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    engine_info: dict[str, Any] | None = None
    trtexec: str | None = None
    variants: tuple[str, ...] = ()

    @property
    def classes(self) -> int | None:
        """How many classes detections have; None where nothing was recognised, or nothing is classified."""
        spec = self.spec or {}
        count = (spec.get("box_head") or spec.get("dense") or {}).get("num_classes")
        return None if count is None else int(count)

    def write(self, folder: Path) -> None:
        """Write manifest.json. Raises InputError."""
        write_json(folder / MANIFEST, plain(self))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read manifest.json of a build folder. Raises InputError, naming file and key, when it is none."""
        path = folder / MANIFEST
        if folder.is_file():
            raise InputError(f"{folder}: {_instead(folder)}")
        recover(folder)
        if not path.is_file():
            raise InputError(f"{folder}: no build (it has no {MANIFEST})")
        return _read(cls, path)


@dataclass(frozen=True)
class PassTime:
    """Seconds of one pass; None for one that failed."""

    name: str = field(metadata={"key": "pass"})
    seconds: float | None


@dataclass(frozen=True)
class Times:
    """Seconds of a build, apart from what is the same in each: of every pass in order, from the file to the compiled graph
    (`surgery`), in all, and of the engine's builder by what it did."""

    passes: tuple[PassTime, ...] = ()
    surgery: float | None = None
    total: float | None = None
    engine: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write times.json. Raises InputError."""
        write_json(folder / TIMES, plain(self))

    @classmethod
    def read(cls, folder: Path) -> Times:
        """Read times.json; empty where the folder has none. Raises InputError."""
        path = folder / TIMES
        return _read(cls, path) if path.is_file() else cls()


def _instead(file: Path) -> str:
    """What to say of a file where a build folder is wanted."""
    if file.suffix.lower() == ".onnx":
        return f"is a model, and a build is wanted: onnxgraft build {file} -o out, then give out"
    if file.name == MANIFEST:
        return f"give the folder of the build: {file.parent}"
    return "is a file, and a build is wanted first: the folder that onnxgraft build makes"


def _read(kind: Any, path: Path) -> Any:
    try:
        return parsed(kind, read_json(path, path.stem), str(path))
    except InputError as error:
        raise InputError(f"{error}; {_AGAIN}") from error


def is_build(folder: Path) -> bool:
    """Whether a folder holds a manifest of ours: other programs name files manifest.json too. Raises OSError."""
    path = folder / MANIFEST
    return path.is_file() and b'"onnxgraft"' in path.read_bytes()


def versions() -> dict[str, str]:
    """Versions of the packages that decide about a build; absent ones are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
