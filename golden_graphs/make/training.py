"""Train the small detectors of shapes that have no trained weights: RetinaNet, Cascade and Swin Mask R-CNN. Needs detectron2.

    python -m golden_graphs.make.training retinanet --shapes-weights model.pth --output retinanet.pth

They begin as the trained Mask R-CNN of shapes: what they share with it is kept as it is, the rest starts there where it
fits. Scenes of SIDE x SIDE pixels are drawn from seeds below 10^8. Less than half an hour each on two cores. The
transformer starts from nothing: first it learns to give the trained FPN's maps, which needs no heads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall, instantiate
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import SwinTransformer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from onnxgraft.frontends.detectron2 import configs
from onnxgraft.frontends.detectron2.configs import Source
from onnxgraft.golden import scenes

SIDE = 320  # pixels
BATCH = 4
DECAY = 1e-4
WARMUP = 50  # iterations
LARGEST_NORM = 5.0  # of the gradient
IMITATED_RATE = 1e-3

WIDTHS = (
    "MODEL.RESNETS.RES2_OUT_CHANNELS=64", "MODEL.RESNETS.STEM_OUT_CHANNELS=16", "MODEL.RESNETS.WIDTH_PER_GROUP=16",
    "MODEL.FPN.OUT_CHANNELS=64", "MODEL.ROI_BOX_HEAD.FC_DIM=256", "MODEL.ROI_MASK_HEAD.CONV_DIM=64",
)  # fmt: skip

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """A config of the zoo made as narrow as the trained Mask R-CNN, the modules that stay as they are, and the schedule."""

    config: str
    overrides: tuple[str, ...]
    kept: tuple[str, ...]
    iterations: int
    rate: float
    build: Callable[[str], Source] | None = None  # of a LazyConfig, whose widths stand in many places
    imitated: int = 0  # iterations before, at IMITATED_RATE, in which its backbone learns the trained one's maps

    def source(self) -> Source:
        """The untrained model."""
        if self.build is not None:
            return self.build(self.config)
        return configs.load(self.config, [*WIDTHS, *self.overrides])


def _swin(name: str) -> Source:
    """Mask R-CNN over a Swin transformer of the trained ResNet's widths; at SIDE, windows reach beyond every map but one."""
    config = model_zoo.get_config(name)
    model = config.model
    model.backbone.bottom_up = LazyCall(SwinTransformer)(
        embed_dim=64, depths=[2, 2, 2, 2], num_heads=[2, 4, 8, 16], drop_path_rate=0.0
    )
    model.backbone.in_features = ("p0", "p1", "p2", "p3")
    model.backbone.out_channels = model.proposal_generator.head.in_channels = 64
    heads = model.roi_heads
    heads.num_classes, heads.batch_size_per_image = len(scenes.CLASSES), 128
    for head, edge in ((heads.box_head, 7), (heads.mask_head, 14)):
        head.input_shape = ShapeSpec(channels=64, height=edge, width=edge)
        head.conv_dims = [64] * len(head.conv_dims)
    heads.box_head.fc_dims, heads.box_predictor.input_shape = [256, 256], ShapeSpec(channels=256)
    torch.manual_seed(0)
    return Source(config, instantiate(model).eval())


RECIPES = {
    "retinanet": Recipe(
        "COCO-Detection/retinanet_R_50_FPN_3x.yaml", (f"MODEL.RETINANET.NUM_CLASSES={len(scenes.CLASSES)}",),
        kept=("backbone.bottom_up",), iterations=1200, rate=1e-3,
    ),
    "cascade_mask_rcnn": Recipe(
        "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
        (f"MODEL.ROI_HEADS.NUM_CLASSES={len(scenes.CLASSES)}", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=128"),
        kept=("backbone", "proposal_generator", "roi_heads.mask_head"), iterations=800, rate=5e-4,
    ),
    "mask_rcnn_swin": Recipe(
        "common/models/mask_rcnn_fpn.py", (), kept=("roi_heads.mask_head",), iterations=200, rate=3e-4, build=_swin,
        imitated=400,
    ),
}  # fmt: skip


def begin(model: nn.Module, trained: Weights) -> None:
    """Take from the trained Mask R-CNN what fits: all three box heads of a cascade start as its one."""
    wanted = model.state_dict()
    start = dict(trained)
    for name in wanted:
        part = name.split(".")
        if part[:1] == ["roi_heads"] and part[1] in ("box_head", "box_predictor") and part[2].isdigit():
            start[name] = trained[".".join([*part[:2], *part[3:]])]
            if "bbox_pred" in name:  # a cascade's deltas are one set for all classes
                start[name] = start[name].unflatten(0, (-1, 4)).mean(0)
    fitting = {name: value for name, value in start.items() if name in wanted and wanted[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)


def batch(rng: np.random.Generator) -> list[dict[str, object]]:
    """BATCH scenes of training seeds, as detectron2's models take them."""
    found = []
    while len(found) < BATCH:
        image, instances = scenes.draw(int(rng.integers(10**8)), (SIDE, SIDE))
        if not instances:
            continue
        truth = Instances((SIDE, SIDE))
        truth.gt_boxes = Boxes(torch.tensor([instance.box for instance in instances]))
        truth.gt_classes = torch.tensor([instance.category for instance in instances])
        truth.gt_masks = BitMasks(torch.from_numpy(np.stack([instance.mask for instance in instances]).astype(bool)))
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        found.append({"image": tensor, "instances": truth, "height": SIDE, "width": SIDE})
    return found


def train(model: nn.Module, kept: Sequence[str], iterations: int, rate: float, seed: int = 0) -> None:
    """All losses of detectron2 on what is not kept."""
    for name in kept:
        model.get_submodule(name).requires_grad_(False)
    if "roi_heads.mask_head" in kept:
        model.roi_heads.mask_on = False  # no loss of what is not trained
    with EventStorage() as storage:

        def loss(drawn: list[dict[str, object]]) -> torch.Tensor:
            storage.step()
            return torch.stack(list(model(drawn).values())).sum()

        _descend(model, loss, iterations, rate, seed)
    if "roi_heads.mask_head" in kept:
        model.roi_heads.mask_on = True


def imitate(model: nn.Module, weights: Weights, iterations: int) -> None:
    """Let a backbone give the maps of the trained one, each weighted by its own spread."""
    teacher = configs.load(
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        [*WIDTHS, f"MODEL.ROI_HEADS.NUM_CLASSES={len(scenes.CLASSES)}", "MODEL.RESNETS.NORM=BN"],
    ).model.eval()
    teacher.load_state_dict(dict(weights))

    def loss(drawn: list[dict[str, object]]) -> torch.Tensor:
        images = model.preprocess_image(drawn).tensor
        with torch.no_grad():
            wanted = teacher.backbone(images)
        given = model.backbone(images)
        return torch.stack([((given[p] - wanted[p]) ** 2).mean() / wanted[p].var() for p in ("p2", "p3", "p4", "p5")]).sum()

    _descend(model, loss, iterations, IMITATED_RATE, seed=1)


def _descend(
    model: nn.Module, loss_of: Callable[[list[dict[str, object]]], torch.Tensor], iterations: int, rate: float, seed: int
) -> None:
    """AdamW on what is free in a model, over drawn scenes, the rate falling as a cosine; it is in evaluation mode then."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(free, lr=rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / WARMUP) * (1 + np.cos(np.pi * step / iterations)) / 2
    )
    model.train()
    started, recent = time.monotonic(), []
    for step in range(iterations):
        loss = loss_of(batch(rng))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(free, LARGEST_NORM)
        optimiser.step()
        schedule.step()
        recent.append(float(loss))
        if step % 50 == 49:
            seconds = time.monotonic() - started
            print(f"{step + 1}/{iterations} loss {np.mean(recent[-50:]):.4f} {seconds:.0f} s", flush=True)
    model.eval()


def fold(model: nn.Module) -> None:
    """Put every frozen norm into its convolution, and round all weights to bfloat16, so that they pack well.

    What is left is the model that is exported and whose answers are the reference.
    """
    for module in model.modules():
        norm = getattr(module, "norm", None)
        if isinstance(module, Conv2d) and isinstance(norm, FrozenBatchNorm2d):
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            bias = norm.bias - norm.running_mean * scale
            if module.bias is not None:
                bias = bias + module.bias * scale
            module.weight.data = module.weight.data * scale[:, None, None, None]
            module.bias, module.norm = nn.Parameter(bias), None
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a small detector of scenes.")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--shapes-weights", type=Path, required=True, help="state dict of the trained Mask R-CNN of shapes")
    parser.add_argument("--output", type=Path, required=True, help="where its state dict goes")
    parser.add_argument("--iterations", type=int)
    args = parser.parse_args(arguments)
    recipe = RECIPES[args.name]
    source = recipe.source()
    trained = torch.load(args.shapes_weights, weights_only=True)["model"]
    begin(source.model, trained)
    if recipe.imitated:
        imitate(source.model, trained, recipe.imitated)
    train(source.model, recipe.kept, args.iterations or recipe.iterations, recipe.rate)
    torch.save({"model": source.model.state_dict()}, args.output)


if __name__ == "__main__":
    main()
