"""The rewrites, one per file, in the order in which a compilation runs them."""

from onnxgraft.passes.bf16 import Bf16
from onnxgraft.passes.box_nms import BoxNMS
from onnxgraft.passes.decode_boxes import DecodeBoxes
from onnxgraft.passes.deform_conv import DeformConv
from onnxgraft.passes.dense_decode import DenseDecode
from onnxgraft.passes.dense_nms import DenseNMS
from onnxgraft.passes.fit_release import FitRelease
from onnxgraft.passes.fix_content import FixContent
from onnxgraft.passes.fix_input import FixInput
from onnxgraft.passes.fp16 import Fp16
from onnxgraft.passes.inject_anchors import InjectAnchors
from onnxgraft.passes.integer_kernels import IntegerKernels
from onnxgraft.passes.keypoint_head import KeypointHead
from onnxgraft.passes.lower_plugins import LowerPlugins
from onnxgraft.passes.mask_head import MaskHead
from onnxgraft.passes.mask_padding import MaskPadding
from onnxgraft.passes.name_outputs import NameOutputs
from onnxgraft.passes.normalize_input import NormalizeInput
from onnxgraft.passes.point_head import PointHead
from onnxgraft.passes.quantize import Quantize
from onnxgraft.passes.repair_roi_align import RepairRoiAlign
from onnxgraft.passes.roi_align import RoiAlign
from onnxgraft.passes.rpn_nms import RpnNMS
from onnxgraft.passes.simplify import Simplify
from onnxgraft.passes.split_topk import SplitTopk
from onnxgraft.passes.take_proposals import TakeProposals
from onnxgraft.passes.upgrade_opset import UpgradeOpset

BUILT_IN = (
    UpgradeOpset,
    RepairRoiAlign,
    Simplify,
    FixInput,
    NormalizeInput,
    MaskPadding,
    InjectAnchors,
    DecodeBoxes,
    RpnNMS,
    TakeProposals,
    RoiAlign,
    BoxNMS,
    DenseDecode,
    DenseNMS,
    PointHead,
    MaskHead,
    KeypointHead,
    DeformConv,
    NameOutputs,
    FixContent,
    Quantize,
    Fp16,
    Bf16,
    SplitTopk,
    IntegerKernels,
    LowerPlugins,
    FitRelease,
)

__all__ = ["BUILT_IN", *(kind.__name__ for kind in BUILT_IN)]
