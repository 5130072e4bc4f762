"""Images in: read as detectron2 reads them, resized by its rule, placed on a fixed canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxgraft.errors import InputError

Layout = Literal["NCHW", "NHWC"]
Order = Literal["BGR", "RGB"]
_EXIF_ORIENTATION = 274
_DEEP = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})  # Pillow's modes of more than 8 bits
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ResizeRule:
    """detectron2's ResizeShortestEdge: the shorter edge becomes `shortest_edge` unless the longer
    one would pass `longest_edge`. shortest_edge 0 keeps every image as it is."""

    shortest_edge: int = 800
    longest_edge: int = 1333

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing; rounding as ResizeShortestEdge.get_output_shape.

        An edge that rounds to 0, where detectron2 fails, becomes 1.
        """
        if self.shortest_edge == 0:
            return height, width
        edge = self.shortest_edge * 1.0
        scale = edge / min(height, width)
        new_h, new_w = (edge, scale * width) if height < width else (scale * height, edge)
        if max(new_h, new_w) > self.longest_edge:
            scale = self.longest_edge * 1.0 / max(new_h, new_w)
            new_h, new_w = new_h * scale, new_w * scale
        return max(1, int(new_h + 0.5)), max(1, int(new_w + 0.5))


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the canvas (at its top left), all sizes (height, width) in pixels.

    original   size of the image as read
    resized    its size on the canvas: the valid region, and what image_sizes says
    canvas     size of the network's input
    shrunk     the rule's size did not fit the canvas, so the image was scaled further down and
               the answers are those of a smaller image than detectron2 would have seen
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    canvas: tuple[int, int]
    shrunk: bool = False

    @property
    def scale_x(self) -> float:
        """Factor from canvas x to original x."""
        return self.original[1] / self.resized[1]

    @property
    def scale_y(self) -> float:
        """Factor from canvas y to original y."""
        return self.original[0] / self.resized[0]

    @classmethod
    def of(cls, original: tuple[int, int], canvas: tuple[int, int], rule: ResizeRule) -> Placement:
        """Plan the placement of an image: untouched at canvas size, else resized by the rule."""
        if original == canvas:
            return cls(original, original, canvas)
        height, width = rule.size(*original)
        fit = min(canvas[0] / height, canvas[1] / width)
        if fit >= 1:
            return cls(original, (height, width), canvas)
        smaller = (_shrink(height, fit, canvas[0]), _shrink(width, fit, canvas[1]))
        return cls(original, smaller, canvas, shrunk=True)


def _shrink(length: int, factor: float, limit: int) -> int:
    return max(1, min(limit, int(length * factor + 0.5)))


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as detectron2's read_image(format="BGR") does: uint8 [H, W, 3], BGR.

    The EXIF orientation is applied; grayscale, palette, alpha and CMYK images are converted by
    Pillow (alpha is dropped). Raises InputError, one line, for a missing, truncated or
    unknown file.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            return as_bgr(opened)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise InputError(f"{path}: not a readable image ({_cause(error)})") from error


def as_bgr(picture: Image.Image) -> NDArray[np.uint8]:
    """A PIL image as uint8 [H, W, 3] BGR, upright and of three channels, whatever mode and orientation it has.

    16 bits a channel are scaled to 8, where Pillow alone would clip all but the darkest to white.
    """
    picture = _upright(picture)
    if picture.mode in _DEEP:
        picture = Image.fromarray(_scaled(np.asarray(picture)))
    rgb = np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)


def _scaled(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values [H, W] of more than 8 bits as uint8: 16 bits by 257, what fits 8 bits as it is, others by their range."""
    values = np.nan_to_num(grey.astype(np.float64))
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if grey.dtype == np.float32 and low >= 0 and high <= 1:
        values, high = values * 255, 255.0
    if high <= 255 and low >= 0 and grey.dtype.kind not in "u":
        return np.rint(values).astype(np.uint8)
    top = 65535.0 if low >= 0 and high <= 65535 else high
    return np.rint((values - min(low, 0)) * (255 / max(top - min(low, 0), 1e-9))).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return image
    method = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if type(error).__name__ == "UnidentifiedImageError":
        return "no image format that Pillow knows"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pillow's bilinear resize of uint8 [H, W, 3], bit for bit detectron2's ResizeTransform."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    pillow = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(pillow.resize((width, height), Image.Resampling.BILINEAR))


def place(
    image: NDArray[np.uint8],
    canvas: tuple[int, int],
    rule: ResizeRule | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    layout: Layout = "NCHW",
    dtype: Any = np.float32,
    order: Order = "BGR",
    area: tuple[int, int] | None = None,
) -> tuple[NDArray[Any], Placement]:
    """Resize an image by the rule and put it at the top left of a fixed canvas.

    image: uint8 [H, W, 3] BGR. area: the part of the canvas, at its top left, that the image must fit. The others: see `put`.
    Returns the tensor of one image and its Placement.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"expected a uint8 image [H, W, 3], got {image.dtype} {image.shape}")
    placement = Placement.of((image.shape[0], image.shape[1]), area or canvas, rule or ResizeRule())
    pixels = resize(image, placement.resized)
    return put(pixels, canvas, mean, layout, dtype, order), replace(placement, canvas=canvas)


def put(
    pixels: NDArray[np.uint8],
    canvas: tuple[int, int],
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    layout: Layout = "NCHW",
    dtype: Any = np.float32,
    order: Order = "BGR",
) -> NDArray[Any]:
    """A resized image, uint8 [H, W, 3] BGR, at the top left of a fixed canvas.

    canvas: (height, width). mean: the model's pixel mean, three values in `order`.
    Returns values 0..255, [3, H, W] or for NHWC [H, W, 3]. The padding is the mean, which is zero after normalisation, as
    detectron2 pads; a uint8 tensor can only hold the rounded mean, so there the padding is zero within 0.5 / std.
    """
    height, width = pixels.shape[:2]
    if order == "RGB":
        pixels = pixels[:, :, ::-1]
    kind = np.dtype(dtype)
    padding = np.asarray(mean, np.float64)
    if kind.kind in "iu":
        padding = np.clip(np.rint(padding), 0, 255)
    if layout == "NHWC":
        tensor = np.empty((*canvas, 3), kind)
        tensor[height:] = tensor[:height, width:] = padding.astype(kind)
        tensor[:height, :width] = pixels
    else:
        tensor = np.empty((3, *canvas), kind)
        tensor[:, height:] = tensor[:, :height, width:] = padding.astype(kind)[:, None, None]
        tensor[:, :height, :width] = pixels.transpose(2, 0, 1)
    return tensor
