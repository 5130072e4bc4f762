"""Which modules of detectron2 are known to be traced faithfully. Imported only where detectron2 is installed."""

from __future__ import annotations

import torch
from detectron2.modeling import box_regression

from onnxgraft.errors import InputError

PLAIN = ("torch.nn.modules.", "detectron2.layers.wrappers", "detectron2.layers.batch_norm", "detectron2.layers.blocks",
         "detectron2.layers.deform_conv", "detectron2.layers.roi_align", "timm.layers.drop", "timm.layers.mlp")  # fmt: skip
MODELING = {
    "meta_arch": {"GeneralizedRCNN", "PanopticFPN", "SemanticSegmentor", "ProposalNetwork", "RetinaNet", "FCOS",
                  "RetinaNetHead", "FCOSHead", "SemSegFPNHead"},
    "backbone": {"FPN", "LastLevelMaxPool", "LastLevelP6P7", "ResNet", "BasicStem", "BasicBlock", "BottleneckBlock",
                 "DeformBottleneckBlock", "RegNet", "AnyNet", "AnyStage", "SimpleStem", "SE", "VanillaBlock", "BasicTransform",
                 "ResBasicBlock", "BottleneckTransform", "ResBottleneckBlock", "ResBlock", "ViT", "SimpleFeaturePyramid",
                 "Attention", "Block", "PatchEmbed", "SwinTransformer", "BasicLayer", "SwinTransformerBlock",
                 "WindowAttention", "PatchMerging", "Mlp", "MViT", "MultiScaleBlock", "MultiScaleAttention"},
    "anchor_generator": {"DefaultAnchorGenerator", "BufferList"},
    "proposal_generator": {"RPN", "StandardRPNHead"},
    "poolers": {"ROIPooler"},
    "roi_heads": {"StandardROIHeads", "Res5ROIHeads", "CascadeROIHeads", "FastRCNNConvFCHead", "FastRCNNOutputLayers",
                  "MaskRCNNConvUpsampleHead", "KRCNNConvDeconvUpsampleHead"},
}  # fmt: skip
POINT_REND = "detectron2.projects.point_rend."
POINT_HEADS = {"PointRendROIHeads", "PointRendMaskHead", "ConvFCHead", "StandardPointHead"}
ONE_SIZE = {"ViT", "SwinTransformer", "MViT"}
"""Backbones whose windows and positions are traced as those of one size."""
CODERS = (box_regression.Box2BoxTransform, box_regression.Box2BoxTransformLinear)


def refuse_unknown(model: torch.nn.Module) -> None:
    """Raises InputError naming the first part of `model` that export does not know to trace faithfully."""
    for name, module in model.named_modules():
        kind = type(module)
        if not _known(kind):
            where = f"its {name}" if name else "the model"
            raise InputError(f"{where} is {kind.__module__}.{kind.__qualname__}, which export does not know")
        coder = getattr(module, "box2box_transform", None)
        if coder is not None and type(coder) not in CODERS:
            raise InputError(f"{name}.box2box_transform is a {type(coder).__module__}.{type(coder).__qualname__}, "
                             "which export does not know")  # fmt: skip


def size_of_trace(model: torch.nn.Module, asked: tuple[int, int] | None) -> tuple[int, int] | None:
    """The size that `model` has to be traced at: the one square that it pads every image to, else what was asked for.

    Raises:
        InputError: another one was asked for.
    """
    side = int(getattr(getattr(model, "backbone", None), "padding_constraints", {}).get("square_size", 0))
    if not side:
        return asked
    if asked not in (None, (side, side)):
        raise InputError(f"size {asked[0]}x{asked[1]}: the model pads every image to {side}x{side}, which its trace holds for; "
                         f"take --size {side}x{side}, or set model.backbone.square_pad")  # fmt: skip
    return side, side


def holds_for_one_size(model: torch.nn.Module) -> bool:
    """Whether a part of `model` is traced for one size of the picture alone."""
    return any(type(module).__name__ in ONE_SIZE and _known(type(module)) for module in model.modules())


def notes_on_size(model: torch.nn.Module, height: int, width: int) -> list[str]:
    """What to say of a trace at a size; nothing where it holds for all."""
    size = f"{height}x{width}"
    say = f"windows and positions are those of {size}: build with --size {size}, or export at the size you want"
    return [say] if holds_for_one_size(model) else []


def _known(kind: type) -> bool:
    if kind.__module__.startswith(PLAIN):
        return True
    if kind.__module__.startswith(POINT_REND):
        return kind.__name__ in POINT_HEADS
    package, _, rest = kind.__module__.partition("detectron2.modeling.")
    return not package and kind.__name__ in MODELING.get(rest.partition(".")[0], ())


RANDOM = "random"  # as weights: the model as it is initialised
