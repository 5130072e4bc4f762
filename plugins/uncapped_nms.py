"""EfficientNMS_TRT without its cap of 5000 boxes: for the 6000 proposals of detectron2's C4 and DC5 models.

No target has it as a plugin, so it is native on all of them.
"""

from __future__ import annotations

from onnxgraft.plugins.efficient_nms import EfficientNMS


class UncappedNMS(EfficientNMS):
    """Inputs, outputs, attributes and lowering of EfficientNMS_TRT; every box enters."""

    op_type = "UncappedNMS"
    targets = frozenset()
    releases = ()
    deprecated = ""
    cap = None
