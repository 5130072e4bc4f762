"""A build as a callable with the interface of detectron2's DefaultPredictor."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxgraft.detector.outputs import TENSORS, Role
from onnxgraft.errors import InputError, MissingExtraError
from onnxgraft.runtime import proposals as proposal_ops
from onnxgraft.runtime import semantic
from onnxgraft.runtime.images import as_bgr
from onnxgraft.runtime.instances import Boxes, Instances, array
from onnxgraft.runtime.session import ImageResult
from onnxgraft.runtime.variants import open_build

Picture = NDArray[np.uint8] | Image.Image | str | Path
Structures = Literal["auto", "numpy", "detectron2"]


class Predictor:
    """Runs a build as detectron2's DefaultPredictor runs a model.

        predictor = Predictor("out")
        instances = predictor(cv2.imread("photo.jpg"))["instances"]
        instances.pred_boxes.tensor, instances.scores, instances.pred_classes, instances.pred_masks

    Also a context manager, which lets go of the engine at its end.

    Args:
        folder: a build folder.
        engine: "auto" runs the engine where it can, else ONNX Runtime; "onnxruntime" always the latter; "required" raises
            TargetError where the engine cannot run.
        structures: what answers are made of: detectron2's own Instances over torch tensors where both are installed
            ("auto"), always ("detectron2"), or never ("numpy": a stand-in with the same attributes and methods).
        min_score: detections below it are left out.
        threads: of ONNX Runtime; all cores without it.
        proposals: of a Fast R-CNN: a file as `infer --json` of an RPN writes it, or a function of a picture's path (None
            for an array) and its height and width that gives boxes float32 [R, 4] in its pixels, best first.

    Attributes:
        class_names, semantic_class_names: by index, as far as the build knows them.
        notice: where the engine does not run, why; else "".

    Raises:
        InputError: the folder holds no build. MissingExtraError: detectron2 is asked for and absent.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        engine: Literal["auto", "onnxruntime", "required"] = "auto",
        structures: Structures = "auto",
        min_score: float = 0.0,
        threads: int | None = None,
        proposals: str | Path | proposal_ops.Proposals | None = None,
    ) -> None:
        if isinstance(proposals, (str, Path)):
            proposals = proposal_ops.read(Path(proposals))
        self._make = _maker(structures)
        self.session = open_build(folder, engine, threads=threads, proposals=proposals or proposal_ops.none)
        self.min_score = min_score
        self.class_names = self.session.manifest.class_names
        self.semantic_class_names = self.session.manifest.semantic_class_names
        self.notice = self.session.notice

    def __call__(self, image: Picture | list[Picture] | tuple[Picture, ...]) -> Any:
        """What is found in a picture, or in each of several.

        Args:
            image: uint8 [H, W, 3] BGR as cv2.imread gives it, a PIL image, a path, or a list of such, which run in
                batches of the build's size.

        Returns:
            A dictionary (for a list, a list of them), coordinates in pixels of the picture:
            "instances": Instances with pred_boxes, scores float32 [n], pred_classes int64 [n] and, where the network has
            such heads, pred_masks bool [n, H, W] and pred_keypoints float32 [n, K, 3] (x, y, score);
            "sem_seg": float32 [C, H, W], class scores of each pixel, of a semantic head;
            "panoptic_seg": (int32 [H, W] segment of each pixel, list of segments), of a Panoptic FPN;
            "proposals": Instances with proposal_boxes and objectness_logits, of an RPN alone.

        Raises:
            InputError: an unreadable picture, or an array of another form.
        """
        if isinstance(image, (list, tuple)):
            return [self._answer(result) for result in self.session.run([_taken(one) for one in image])]
        (result,) = self.session.run([_taken(image)])
        return self._answer(result)

    def close(self) -> None:
        """Let go of the engine and its memory; calls after it raise InputError."""
        self.session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, result: ImageResult) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        if not result.detects_nothing:
            answer |= self._instances(result)
        if result.raw.semantic is not None:
            answer["sem_seg"] = self._make.values(semantic.resized(result.raw.semantic, result.placement))
        if result.panoptic is not None:
            answer["panoptic_seg"] = (self._make.values(result.panoptic.ids), [dict(s) for s in result.panoptic.info])
        return answer

    def _instances(self, result: ImageResult) -> dict[str, Any]:
        found = result.found
        if self.min_score > 0:
            found = found.select(found.detections.scores >= self.min_score)
        held = found.detections
        if TENSORS[Role.CLASSES] not in self.session.manifest.io.outputs and self.session.manifest.io.outputs:
            with np.errstate(divide="ignore"):
                logits = np.log(held.scores) - np.log1p(-held.scores)
            return {"proposals": self._make(found.size, {"proposal_boxes": held.boxes, "objectness_logits": logits})}
        fields: dict[str, NDArray[Any]] = {"pred_boxes": held.boxes, "scores": held.scores, "pred_classes": held.classes}
        masks = found.pasted()
        if masks is not None:
            fields["pred_masks"] = masks
        if found.keypoints is not None:
            fields["pred_keypoints"] = found.keypoints
        return {"instances": self._make(found.size, fields)}


class _Numpy:
    """Makes answers of NumPy arrays."""

    def values(self, values: NDArray[Any]) -> Any:
        """As the stand-in of a tensor."""
        return array(values)

    def __call__(self, size: tuple[int, int], fields: dict[str, NDArray[Any]]) -> Any:
        made = {name: Boxes(v) if name.endswith("boxes") else array(v) for name, v in fields.items()}
        return Instances(size, **made)


class _Detectron2(_Numpy):
    """Makes answers of torch tensors and detectron2's own classes."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.structures = importlib.import_module("detectron2.structures")

    def values(self, values: NDArray[Any]) -> Any:
        """As a tensor on the CPU."""
        return self.torch.from_numpy(np.ascontiguousarray(values))

    def __call__(self, size: tuple[int, int], fields: dict[str, NDArray[Any]]) -> Any:
        tensors = {name: self.values(values) for name, values in fields.items()}
        boxes = self.structures.Boxes
        return self.structures.Instances(size, **{n: boxes(t) if n.endswith("boxes") else t for n, t in tensors.items()})


def _maker(structures: Structures) -> _Numpy:
    if structures not in ("auto", "numpy", "detectron2"):
        raise InputError(f"structures is {structures!r}, expected auto, numpy or detectron2")
    installed = all(importlib.util.find_spec(name) is not None for name in ("torch", "detectron2"))
    if structures == "detectron2" and not installed:
        raise MissingExtraError("structures='detectron2' needs torch and detectron2; 'numpy' gives a stand-in")
    return _Detectron2() if installed and structures != "numpy" else _Numpy()


def _taken(picture: Picture) -> str | Path | NDArray[np.uint8]:
    """A picture as a session takes it: a path, or uint8 [H, W, 3] BGR."""
    if isinstance(picture, Image.Image):
        return as_bgr(picture)
    if isinstance(picture, (str, Path, np.ndarray)):
        return picture
    raise InputError(f"expected a picture as an array, a PIL image or a path, got {type(picture).__name__}")
