"""Turns the portable plugin graph into what one target takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxgraft.errors import InputError
from onnxgraft.ir.graph import IR_VERSION, PLUGIN_DOMAIN, Graph, Origin
from onnxgraft.ir.shape_inference import infer_shapes
from onnxgraft.ir.traverse import producer, value
from onnxgraft.options import Count, Form
from onnxgraft.pipeline.base import Pass
from onnxgraft.pipeline.context import Context
from onnxgraft.pipeline.facts import LOWERED, NAMED_OUTPUTS, OPSET, Fact
from onnxgraft.plugins import REGISTRY
from onnxgraft.plugins.op import Group
from onnxgraft.targets.traits import traits_of

_NARROW = {"float16", "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class LowerPlugins(Pass):
    """Hand plugin nodes over to a target: its own plugins by name, everything else as standard ONNX operators.

    On `onnxruntime` plugin nodes stay functions, which it runs. On `tensorrt` they move to the default domain, without
    functions, where the parser looks plugins up. On `tensorrt-rtx`, which has no plugins, they become native operators.
    Legal when (1) shapes are static. Options force the native form on any target.
    """

    requires: ClassVar[tuple[Fact | str, ...]] = (NAMED_OUTPUTS, OPSET)
    provides: ClassVar[tuple[Fact | str, ...]] = (LOWERED,)

    target: str = "onnxruntime"
    nms: Form = "auto"
    roi_align: Form = "auto"
    roi_sampling: Literal["exact", "masked4", "fixed2"] = "exact"
    deform_conv: Form = "auto"
    max_candidates: Count | None = None

    @property
    def changes_answers(self) -> str:
        if self.roi_sampling != "exact":
            return f"samples RoIAlign as {self.roi_sampling}"
        return "bounds the candidates of a suppression" if self.max_candidates is not None else ""

    def portable(self) -> Pass:
        """As functions, but for what a native form was asked to compute otherwise."""
        sampled, fewer = self.roi_sampling != "exact", self.max_candidates is not None
        return LowerPlugins(
            roi_align="native" if sampled else "auto", roi_sampling=self.roi_sampling,
            nms="native" if fewer else "auto", max_candidates=self.max_candidates,
        )  # fmt: skip

    def run(self, graph: Graph, ctx: Context) -> None:
        traits = traits_of(self.target)
        forms: dict[Group | None, Form] = {
            "nms": self.nms, "roi-align": self.roi_align, "deform-conv": self.deform_conv,
        }  # fmt: skip
        taken: set[str] = set()
        for node in [n for n in graph.nodes if n.domain == PLUGIN_DOMAIN]:
            plugin = REGISTRY[node.op]
            form = forms.get(plugin.group, "auto")
            native = form == "native" or (not traits.has(plugin) and (form == "auto" or not plugin.targets))
            if native:
                options = self._options(node, ctx)
                taken |= options.keys()
                _in_pixels(node)
                inline(graph, node, options | _narrowed(node))
                ctx.count(f"{node.op} lowered")
            elif traits.plugins == "default-domain":
                node.domain = None
                ctx.count(f"{node.op} handed over")
        self._refuse_without_effect(taken)
        used = {n.op for n in graph.nodes if n.domain == PLUGIN_DOMAIN}
        graph.functions = {name: body for name, body in graph.functions.items() if name in used}
        graph.cleanup()
        if not any(n.domain is None and n.op in REGISTRY for n in graph.nodes):
            infer_shapes(graph)
            _drop_round_trips(graph)

    def _refuse_without_effect(self, taken: set[str]) -> None:
        for option, default, form in (("roi_sampling", "exact", "roi_align"), ("max_candidates", None, "nms")):
            if getattr(self, option) != default and option not in taken:
                flag, wanted = option.replace("_", "-"), form.replace("_", "-")
                raise InputError(f"--{flag} has no effect here: nothing is lowered to a native form that takes it on "
                                 f"{self.target}; give --{wanted} native, or leave it out")  # fmt: skip

    def _options(self, node: gs.Node, ctx: Context) -> dict[str, Any]:
        known = {option.name for option in REGISTRY[node.op].options}
        wanted: dict[str, Any] = {"roi_sampling": self.roi_sampling, "max_candidates": self.max_candidates}
        if node.name in ctx.lowering:
            wanted |= ctx.lowering[node.name].given()
        return {key: value for key, value in wanted.items() if key in known and value is not None}


def _narrowed(node: gs.Node) -> dict[str, Any]:
    """Let the native form read its maps as they were before they were cast to fp32: it casts what it reads of them.

    Returns the option that says so, or nothing where one of the maps was not cast.
    """
    plugin = REGISTRY[node.op]
    places = [plugin.inputs.index(name) for name in plugin.selected]
    casts = [producer(node.inputs[place]) for place in places]
    sources = [cast.inputs[0] for cast in casts if cast is not None and cast.op == "Cast"]
    known = [tensor.dtype for tensor in sources if tensor.dtype is not None and not isinstance(tensor.dtype, int)]
    types = {str(np.dtype(dtype)) for dtype in known}
    if not sources or len(sources) != len(places) or len(types) != 1 or not types <= _NARROW:
        return {}
    for place, source in zip(places, sources, strict=True):
        node.inputs[place] = source
    return {"maps": types.pop()}


def _in_pixels(node: gs.Node) -> None:
    """Let the native form read boxes as they were before they were divided by the canvas: it tells levels by their pixels."""
    divided = producer(node.inputs[0])
    size = value(divided.inputs[1]) if divided is not None and divided.op == "Div" else None
    if divided is None or size is None or node.attrs.get("roi_coords_absolute", 1) or size.shape != (4,):
        return
    node.inputs[0] = divided.inputs[0]
    node.attrs |= {"roi_coords_absolute": 1, "image_size": [int(size[1]), int(size[0])]}


def inline(graph: Graph, node: gs.Node, options: dict[str, Any]) -> None:
    """Replace a plugin node by its native form."""
    plugin = REGISTRY[node.op]
    attrs = {k: v for k, v in node.attrs.items() if k != "plugin_version"}
    body = plugin.lower(attrs, [tuple(t.shape) for t in node.inputs], options)
    model = onnx.helper.make_model(
        body, ir_version=IR_VERSION, opset_imports=[onnx.helper.make_opsetid("", graph.gs.opset)]
    )
    part = gs.import_onnx(model)
    _rename(graph, part, node.name)
    inputs, outputs = list(node.inputs), list(node.outputs)
    for inner, outer in zip(part.inputs, inputs, strict=True):
        _substitute(part, inner, outer)
    node.inputs.clear()
    node.outputs.clear()
    for inner, outer in zip(part.outputs, outputs, strict=True):
        maker = inner.inputs[0]
        position = next(i for i, t in enumerate(maker.outputs) if t is inner)
        _substitute(part, inner, outer)
        maker.outputs[position] = outer
    source = (node.name,)
    for made in part.nodes:
        graph.origins[made.name] = Origin(graph.current_pass, source)
    position = graph.gs.nodes.index(node)
    graph.gs.nodes[position : position + 1] = part.nodes


def _drop_round_trips(graph: Graph) -> None:
    """Join a cast to fp32 and the cast back, which meet where a native form computes in the type around it."""
    for node in [n for n in graph.nodes if n.op == "Cast"]:
        first = producer(node.inputs[0])
        while first is not None and first.op == "Identity":
            first = producer(first.inputs[0])
        if first is None or first.op != "Cast" or first.inputs[0].dtype is None:
            continue
        source, wide = first.inputs[0], onnx.helper.tensor_dtype_to_np_dtype(int(first.attrs["to"]))
        narrow = np.dtype(source.dtype) == onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))
        if narrow and wide == np.float32 and np.dtype(source.dtype).itemsize == 2:
            graph.replace(node.outputs[0], source)
    graph.cleanup()


def _rename(graph: Graph, part: gs.Graph, prefix: str) -> None:
    for current in [part, *part.subgraphs(recursive=True)]:
        for tensor in list(current._local_tensors().values()):
            if tensor.name:
                tensor.name = graph.fresh(f"{prefix}/{tensor.name}")
        for index, node in enumerate(current.nodes):
            node.name = graph.fresh(f"{prefix}/{node.name or f'{node.op}_{index}'}")


def _substitute(part: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    for current in [part, *part.subgraphs(recursive=True)]:
        for node in current.nodes:
            for index, tensor in enumerate(node.inputs):
                if tensor is old:
                    node.inputs[index] = new
        for index, tensor in enumerate(current.outputs):
            if tensor is old and current is not part:
                current.outputs[index] = new
