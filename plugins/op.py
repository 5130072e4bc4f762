"""What every plugin op is: a schema, shape inference, an executable body and a native lowering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import onnx
from onnx import helper

from onnxgraft.errors import PluginError
from onnxgraft.plugins.schema import RESERVED, Attribute, complete_attributes

DOMAIN = "onnxgraft"
"""Domain of plugin nodes inside the compiler; at hand-over it becomes "" and bodies are dropped."""

Shape = tuple[int, ...]
Group = Literal["nms", "roi-align", "deform-conv"]


class PluginOp(ABC):
    """A TensorRT plugin op as a definition that the compiler can check, run and lower."""

    op_type: ClassVar[str]
    version: ClassVar[str]
    attributes: ClassVar[tuple[Attribute, ...]]
    options: ClassVar[tuple[Attribute, ...]]
    inputs: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]]
    targets: ClassVar[frozenset[str]]
    releases: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(release of TensorRT, version) from which on it loads in that version, the oldest first; empty for nobody's plugin."""
    attributes_since: ClassVar[Mapping[str, str]] = {}
    """The release of TensorRT that first knows an attribute; what is not here is as old as the plugin."""
    deprecated: ClassVar[str] = ""
    """The release of TensorRT that deprecates it; empty where none does."""
    group: ClassVar[Group | None] = None
    """The option of lower-plugins that forces its native form; None where nobody asked for one."""
    selected: ClassVar[tuple[str, ...]] = ()
    """Inputs of which the native form selects elements before it computes: option `maps` tells it that they are narrower."""

    def validate(self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape], node: str = "") -> dict[str, Any]:
        """All attributes, defaults filled in.

        Raises PluginError, naming the node, the attribute or input, and the reason.
        """
        where = f"{self.op_type} node {node!r}" if node else self.op_type
        complete = complete_attributes(self.attributes, attrs, where, reserved=RESERVED)
        version = attrs.get("plugin_version", self.version)
        if version not in (self.version, self.version.encode()):
            raise PluginError(
                f"{where}: plugin_version={version!r}, only {self.version!r} is known"
            )
        if len(input_shapes) != len(self.inputs):
            names = ", ".join(self.inputs)
            raise PluginError(
                f"{where}: {len(input_shapes)} inputs, takes {len(self.inputs)} ({names})"
            )
        self._check(complete, [tuple(shape) for shape in input_shapes], where)
        return complete

    def lowering_options(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All options of `lower`, defaults filled in. Raises PluginError on an unknown one."""
        return complete_attributes(self.options, options or {}, f"lowering of {self.op_type}")

    @abstractmethod
    def infer_shapes(self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape]) -> list[Shape]:
        """Static output shapes from static input shapes, after validation."""

    @abstractmethod
    def function(self, opset: int = 17) -> onnx.FunctionProto:
        """The op as an ONNX function of standard ops that ONNX Runtime executes, shape-generic."""

    @abstractmethod
    def lower(
        self, attrs: Mapping[str, Any], input_shapes: Sequence[Shape], options: Mapping[str, Any] | None = None
    ) -> onnx.GraphProto:
        """The op as opset-19 standard ops with static shapes that need no plugin and no NMS op."""

    @abstractmethod
    def _check(self, attrs: Mapping[str, Any], shapes: list[Shape], where: str) -> None:
        """Raise PluginError when input shapes or attributes do not fit each other."""

    def _function(self, nodes: Sequence[onnx.NodeProto], opset: int) -> onnx.FunctionProto:
        names = [attribute.name for attribute in self.attributes]
        return helper.make_function(
            DOMAIN,
            self.op_type,
            self.inputs,
            self.outputs,
            nodes,
            [helper.make_opsetid("", opset)],
            attributes=[*names, "plugin_version"],
        )
