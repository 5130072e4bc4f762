"""The engine's layers, read from what the builder logs about them.

An EngineInspector needs a deserialized engine, and that needs a GPU. But the builder itself
prints the same information at verbose severity, as one message that starts with "Layers:", when
the profiling verbosity is detailed; it does so without a GPU too (TensorRT for RTX 1.7).
"""

from __future__ import annotations

import math
import re

from onnxgraft.targets.engine_info import LayerInfo

HEADER = "Layers:\n"
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?)"
    r"(?:, Constants: (?P<constants>.*?))?, Outputs: (?P<outputs>.*?)"
    r"(?:, (?:TacticName|StreamId|Metadata): .*)?$"
)
_TENSOR = re.compile(r"Dimensions: \[([\d, ]*)\][^}]*?Datatype: (\w+)")
_ITEM = {"Int64": 8, "Float": 4, "Int32": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Bool": 1}
_DATATYPE = re.compile(r"Datatype: (\w+)")
_ONNX = re.compile(r"\[ONNX Layer: (.*?)\](?=\[ONNX Layer: |[\x1e\x1f]|$)")


def parse_layers(message: str) -> tuple[LayerInfo, ...]:
    """Read the builder's layer list; lines of another form are left out."""
    layers = []
    for line in message.removeprefix(HEADER).split("\n"):
        match = _LAYER.match(line)
        if match is None:
            continue
        _, _, metadata = line.partition(", Metadata: ")
        layers.append(
            LayerInfo(
                name=match["name"],
                kind=match["kind"],
                input_types=_types(match["inputs"]),
                constant_types=_types(match["constants"] or ""),
                output_types=_types(match["outputs"]),
                onnx_nodes=onnx_nodes(metadata),
                read_bytes=_bytes(match["inputs"]) + _bytes(match["constants"] or ""),
                written_bytes=_bytes(match["outputs"]),
            )
        )
    return tuple(layers)


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes in a layer's metadata, "[ONNX Layer: conv1][ONNX Layer: relu1]".

    A unit separator (0x1f) may stand between them, which terminals do not show.
    """
    return tuple(_ONNX.findall(metadata.strip()))


def _bytes(text: str) -> int:
    """Of all tensors in a list; of a type that is not known here, four each."""
    found = _TENSOR.findall(text)
    return sum(math.prod(int(d) for d in shape.split(",") if d.strip()) * _ITEM.get(kind, 4) for shape, kind in found)


def _types(text: str) -> tuple[str, ...]:
    return tuple(_DATATYPE.findall(text))
