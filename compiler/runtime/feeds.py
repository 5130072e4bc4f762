"""What a graph is fed: pictures placed as its input wants them, their sizes, and proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxgraft.manifest import IMAGE_SIZES, GraphIO, ImageIO, Order, Preprocess, TensorIO
from onnxgraft.runtime import proposals as proposal_ops
from onnxgraft.runtime.images import Placement, ResizeRule, place, put

Placed = tuple[NDArray[Any], Placement]  # one image's tensor, without the batch, and where the image lies in it
Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Feeder:
    """Makes the inputs of one graph.

    Attributes:
        io: what the graph takes.
        preprocess: the mean that pads, in the order that it says.
        rule: how pictures are resized; one of the canvas' own size is left as it is.
    """

    io: GraphIO
    preprocess: Preprocess
    rule: ResizeRule

    @classmethod
    def of(cls, io: GraphIO, preprocess: Preprocess) -> Feeder:
        """With the resize rule that a model's preprocessing says."""
        return cls(io, preprocess, ResizeRule(preprocess.shortest_edge, preprocess.longest_edge))

    def place(self, picture: NDArray[np.uint8]) -> Placed:
        """A picture, uint8 [H, W, 3] BGR, as the input's tensor without its batch, and its placement on the canvas."""
        return place(picture, rule=self.rule, area=self.io.area, **self._wanted())

    def put(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """The tensor that `place` gives, of a picture uint8 [h, w, 3] BGR that is resized already."""
        return put(pixels, **self._wanted())

    def _wanted(self) -> dict[str, Any]:
        wanted = self.io.image
        mean = self.preprocess.mean_in(wanted.order)
        return {"canvas": wanted.canvas, "mean": mean, "layout": wanted.layout, "dtype": wanted.dtype, "order": wanted.order}

    def batch(self, placed: Sequence[Placed], boxes: Sequence[NDArray[np.float32]] | None = None) -> Feeds:
        """The inputs for at most one batch of placed pictures; what is missing repeats the last one.

        Args:
            placed: at least one picture, as `place` gives it.
            boxes: proposals of each picture, float32 [R, 4] in its own pixels, best first; a graph that takes proposals
                and is given none gets boxes all over the image.

        Returns:
            By input: the images, of the input's shape and type; image sizes float32 [N, 2], height and width on the canvas;
            proposals float32 [N, P, 4] or, of an export, [R, 4] in pixels of the canvas, rows without area being none.
        """
        wanted = self.io.image
        filled = [*placed, *[placed[-1]] * (wanted.batch - len(placed))]
        tensors = np.stack([tensor for tensor, _ in filled]) if len(filled) > 1 else filled[0][0][None]
        feeds = {wanted.name: tensors if len(wanted.shape) == 4 else tensors[0]}
        if self.io.image_sizes:
            feeds[IMAGE_SIZES] = np.array([placement.resized for _, placement in filled], np.float32)
        if self.io.proposals is not None:
            taken = self.io.proposals
            rows = taken.shape[-2]
            given = boxes if boxes is not None else [proposal_ops.grid(None, p.original, rows) for _, p in placed]
            own = [proposal_ops.place(b, p, rows) for b, (_, p) in zip(given, placed, strict=True)]
            own += [own[-1]] * (len(filled) - len(own))
            feeds[taken.name] = np.stack(own) if len(taken.shape) == 3 else own[0]
        return feeds

    def __call__(
        self, pictures: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float32]] | None = None
    ) -> Feeds:
        """The inputs for at most one batch of pictures, uint8 [H, W, 3] BGR; `boxes` as `batch` takes them."""
        return self.batch([self.place(picture) for picture in pictures], boxes)


def as_it_stands(io: GraphIO, inputs: Mapping[str, Sequence[int]], order: Order) -> GraphIO:
    """What a graph takes whose passes have not named everything yet, such as an export.

    Args:
        io: what passes have named so far.
        inputs: shape by name of every input, the image first; proposals are the one whose last axis is 4.
        order: of the channels, where no pass has named the image.
    """
    (name, shape), *others = inputs.items()
    image = io.input or ImageIO(name, tuple(shape), order=order)
    boxes = next((TensorIO(n, tuple(s)) for n, s in others if n != IMAGE_SIZES and s and s[-1] == 4), None)
    return GraphIO(image, io.image_sizes, io.proposals or boxes, io.outputs, io.boxes, io.content)
