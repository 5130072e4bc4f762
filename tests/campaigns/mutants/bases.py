"""The graphs that mutants are made of: golden members at a small size, with what they answer."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pickle
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from helpers import members
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from onnxgraft.detector.output_forms import OutputForm
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import OnnxgraftError
from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, pictures, scenes
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.ort import open_session
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.options import CompileOptions, Size
from onnxgraft.passes import RepairRoiAlign, Simplify, UpgradeOpset
from onnxgraft.passes.default import default_pipeline
from onnxgraft.passes.fix_input import resize_image, take_padding_out
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.proof.feeds import file_feeds
from onnxgraft.runtime.detections import Detections
from onnxgraft.runtime.read_outputs import from_raw_export
from onnxgraft.targets import onnxruntime

WEIGHTS = {
    "retinanet_thin": 5, "mask_rcnn": 5, "fast_rcnn_thin": 3, "keypoint_rcnn_thin": 3, "panoptic_fpn_thin": 2, "fcos_thin": 3,
    "cascade_mask_rcnn_thin": 3, "rpn_FPN_thin": 2, "semantic_fpn_thin": 1, "faster_rcnn_C4_thin": 1,
    "mask_rcnn_torchvision_thin": 2, "retinanet_torchvision_thin": 2, "fcos_torchvision_thin": 1, "pointrend_thin": 2,
    "ssd_torchvision_thin": 1,
}  # fmt: skip
PICTURES = 3  # of which the first two decide whether a change has an effect


def one_thread_each() -> None:
    """Sessions of this process have one thread from here on: several workers share a machine."""
    onnxruntime.open_session = lambda *args, **more: open_session(*args, **{**more, "threads": 1})


@dataclasses.dataclass(frozen=True)
class Form:
    """How a mutant is built: the batch, whether the canvas around a picture has no part in its answers, and how many pixels
    its canvas is higher and wider than the file's."""

    batch: int = 1
    exact_padding: bool = False
    more: tuple[int, int] = (0, 0)

    @property
    def of_one_size(self) -> bool:
        """Whether it needs no other size than the file's."""
        return not self.exact_padding and not any(self.more)

    def __str__(self) -> str:
        said = [f", batch {self.batch}" if self.batch > 1 else "", ", exact padding" if self.exact_padding else ""]
        return "".join([*said, f", {self.more[0]}x{self.more[1]} pixels more" if any(self.more) else ""])


PLAIN = Form()
FORMS = (*[PLAIN] * 7, Form(batch=2), Form(exact_padding=True), Form(more=(64, 32)))
WHOLE = {"semantic_fpn_thin", "panoptic_fpn_thin", "fcos_thin"}  # their GroupNorm reads the canvas: no exact padding
RESIZING = {name for name in WEIGHTS if "torchvision" in name}  # pictures, to one size


def has_form(name: str, settled: bool, form: Form) -> bool:
    """Whether a base is built in a form at all; settled, it runs at one size alone."""
    return form.of_one_size or not (settled or name in RESIZING or (form.exact_padding and name in WHOLE))


@dataclasses.dataclass(frozen=True)
class Base:
    """A detector to change.

    name: of the golden member; settled: as the passes see it, not as it was exported. data: the model, weights included.
    """

    name: str
    settled: bool
    size: Size
    data: bytes
    spec: DetectorSpec
    order: str | None

    def steps(self, form: Form) -> Sequence[Pass]:
        options = CompileOptions(size=self.size_of(form), batch=form.batch, exact_padding=form.exact_padding)
        return default_pipeline(options, "onnxruntime").passes

    def size_of(self, form: Form) -> Size:
        return Size(self.size.height + form.more[0], self.size.width + form.more[1])

    def graph(self) -> gs.Graph:
        return gs.import_onnx(self.model)

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(self.data)

    def pictures(self) -> list[np.ndarray]:
        return [picture for picture, _ in _answered(self.name, self.settled)]

    def pictures_of(self, form: Form) -> list[np.ndarray]:
        """Pictures of the size of its builds, of which nothing is known."""
        return [_picture(self.name, self.size_of(form), number) for number in range(PICTURES)]

    def answers(self) -> list[Detections | str]:
        return [answer for _, answer in _answered(self.name, self.settled)]


@cache
def _answered(name: str, settled: bool) -> list[tuple[np.ndarray, Detections | str]]:
    return _kept(f"answers-{name}-{settled}", lambda: _run(name, settled))


def _run(name: str, settled: bool) -> list[tuple[np.ndarray, Detections | str]]:
    """Pictures that the detector runs on, with its answers: a RetinaNet fails where a level has no candidate at all."""
    held = base(name, settled)
    model, found = Answers(held.model, held.spec), []
    for number in itertools.count():
        picture = _picture(name, held.size, number)
        with contextlib.suppress(ort_errors.Fail):
            found += [(picture, answer) for answer in model([picture])]
        if len(found) == PICTURES:
            break
    unread = [answer for _, answer in found if isinstance(answer, str)]
    if unread:
        raise LookupError(f"{name}: {unread[0]}; nothing could be told from its changes")
    return found


def _picture(name: str, size: Size, number: int) -> np.ndarray:
    if not name.endswith("_thin"):
        return scenes.draw(scenes.EVALUATION + number, tuple(size))[0]
    return pictures.blocks(members.meta(name)["picture"]["seed"] + number, tuple(size))


class Answers:
    """What a model detects, as it stands, or (optimize) as ONNX Runtime rounds it when it fuses.

    Attributes:
        forms: outputs that a build says it undid, and that are undone here too; none before there is a build.
        order: of the channels that it takes, as a build says; the base's own before there is a build.
    """

    def __init__(self, model: onnx.ModelProto, spec: DetectorSpec, optimize: bool = False) -> None:
        self.spec, self._model = spec, model
        self.forms: tuple[OutputForm, ...] = ()
        self.order = spec.image.order
        self._session = open_session(model.SerializeToString(), threads=1, optimize=optimize)
        self._inputs = gs.import_onnx(onnx.ModelProto(
            graph=onnx.GraphProto(name="inputs", input=model.graph.input), opset_import=model.opset_import,
            ir_version=model.ir_version)).inputs  # fmt: skip

    def __call__(self, shown: Sequence[np.ndarray]) -> list[Detections | str]:
        """One answer for each picture, uint8 BGR or float32; words where its outputs are none of a detector."""
        return [self._one(picture) for picture in shown]

    def rounded_otherwise(self) -> Answers:
        other = Answers(self._model, self.spec, optimize=True)
        other.forms, other.order = self.forms, self.order
        return other

    def _one(self, picture: np.ndarray) -> Detections | str:
        rows = 1000
        fed = file_feeds(self._inputs, picture, self.order, rows, self.spec.image.white)
        names = [o.name for o in self._session.get_outputs()]
        arrays = dict(zip(names, self._session.run(None, fed), strict=True))
        try:
            return self._read(arrays)
        except (OnnxgraftError, ValueError, IndexError) as error:
            return f"unreadable: {error}"

    def _read(self, arrays: dict[str, np.ndarray]) -> Detections:
        roles = self.spec.outputs
        if roles.boxes_tensor is None:
            return Detections.of([], [], [], semantic=arrays[roles.semantic_tensor or next(iter(arrays))].reshape(
                (-1, *next(iter(arrays.values())).shape[-2:])))  # fmt: skip
        wanted = {n for n in dataclasses.asdict(roles).values() if isinstance(n, str)} | {form.given for form in self.forms}
        found = from_raw_export({n: a for n, a in arrays.items() if n in wanted}, roles, self.forms)
        if self.spec.box_head is None and self.spec.dense is None:
            with np.errstate(over="ignore"):
                return dataclasses.replace(found, scores=(1 / (1 + np.exp(-found.scores))).astype(np.float32))
        return found


def resized(graph: Graph, size: Size) -> onnx.ModelProto:
    """A file's graph, folded, taking pictures of another size."""
    resize_image(graph, *size)
    model = graph.skeleton().model
    inline(graph, model)
    return model


@cache
def base(name: str, settled: bool) -> Base:
    """A golden member, resized where it is large; `settled` as the analysis sees it."""
    path = catalog.resolve(name, CACHE)
    return _kept(f"{path.stem}-{settled}", lambda: _made(name, settled, path))


def _kept(name: str, make: Callable[[], Any]) -> Any:
    """What takes long to make, from a folder that outlives the process; the source's own digest is part of the name."""
    sources = b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("bases.py")))
    path = CACHE / "fuzz" / f"{name}-{hashlib.sha256(sources).hexdigest()[:12]}.pickle"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        new.write_bytes(pickle.dumps(make()))
        new.replace(path)
    return pickle.loads(path.read_bytes())


def _made(name: str, settled: bool, path: Path) -> Base:
    graph, ctx = Graph.load(path), Context()
    shape = graph.gs.inputs[0].shape
    size = Size(256, 320) if shape[1] > 400 else Size(shape[1], shape[2])
    for step in (UpgradeOpset(), RepairRoiAlign(), *([Simplify()] if settled or shape[1] > 400 else [])):
        step.perform(graph, ctx)
    before = resize_image(graph, *size)
    if settled:
        take_padding_out(graph, before)
        settle(graph)
    graph.cleanup()
    infer_shapes(graph)
    for tensor in graph.gs.tensors().values():  # the version converter's names, which tell that the opset was raised
        tensor.name = re.sub(r"^_v_(\d+)$", r"value_\1", tensor.name)
    model = graph.skeleton().model
    inline(graph, model)
    steps = default_pipeline(CompileOptions(size=size), "onnxruntime").passes
    recognised, context = Graph.load(path), Context()
    for step in steps[:4]:
        step.perform(recognised, context)
    return Base(name, settled, size, model.SerializeToString(), _as_handed_out(context.spec(), model), None)


def _as_handed_out(spec: DetectorSpec, model: onnx.ModelProto) -> DetectorSpec:
    """The spec with the boxes that the file hands out, where it scales them by the ratio of sizes, which is 1 here."""
    handed = {o.name: o.type.tensor_type.shape.dim for o in model.graph.output}
    if spec.outputs.boxes_tensor is None or spec.outputs.boxes_tensor in handed:
        return spec
    (boxes,) = [name for name, dims in handed.items() if len(dims) == 2 and dims[1].dim_value == 4]
    return dataclasses.replace(spec, outputs=dataclasses.replace(spec.outputs, boxes_tensor=boxes))


def inline(graph: Graph, model: onnx.ModelProto) -> None:
    """Bring weights that lie in files into a model."""
    held = {t.name: t for t in graph.gs.tensors().values() if isinstance(t, gs.Constant)}
    for proto in model.graph.initializer:
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            proto.CopyFrom(onnx.numpy_helper.from_array(np.array(held[proto.name].values), proto.name))
