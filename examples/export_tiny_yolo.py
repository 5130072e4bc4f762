"""Makes tiny_yolo.onnx, the model of the tutorial on new architectures: a YOLO-like detector, untrained.

Needs torch: python examples/export_tiny_yolo.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

SIZE, CLASSES = 128, 3
ANCHORS = {8: ((10.0, 13.0), (16.0, 30.0)), 16: ((30.0, 61.0), (62.0, 45.0))}


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.SiLU())


class TinyYolo(nn.Module):
    """Two scales; each gives [1, A * H * W, 5 + classes]: centre x, y, width, height in pixels, objectness, classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 8), block(8, 16), block(16, 24))
        self.deeper = block(24, 32)
        self.heads = nn.ModuleList([nn.Conv2d(24, 2 * (5 + CLASSES), 1), nn.Conv2d(32, 2 * (5 + CLASSES), 1)])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.stem(images / 255)
        return torch.cat([
            decode(head(feature), stride)
            for head, feature, stride in zip(self.heads, (fine, self.deeper(fine)), ANCHORS, strict=True)
        ], 1)  # fmt: skip


def decode(raw: torch.Tensor, stride: int) -> torch.Tensor:
    """YOLOv5's decoding: offsets within two cells, sizes up to four anchors."""
    side = SIZE // stride
    y = raw.view(1, 2, 5 + CLASSES, side, side).permute(0, 1, 3, 4, 2).sigmoid()
    steps = torch.arange(side, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    anchors = torch.tensor(ANCHORS[stride]).view(1, 2, 1, 1, 2)
    centre = (y[..., 0:2] * 2 - 0.5 + grid) * stride
    size = (y[..., 2:4] * 2) ** 2 * anchors
    return torch.cat([centre, size, y[..., 4:]], -1).view(1, -1, 5 + CLASSES)


def main() -> None:
    torch.manual_seed(0)
    model = TinyYolo().eval()
    with torch.no_grad():
        for head in model.heads:  # untrained scores would all be near a half
            head.weight.mul_(40)
            head.bias.uniform_(-3, 3)
    place = Path(__file__).with_name("tiny_yolo.onnx")
    torch.onnx.export(
        model, (torch.zeros(1, 3, SIZE, SIZE),), str(place), opset_version=16, dynamo=False,
        input_names=["images"], output_names=["predictions"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
