"""How targets differ, where passes ask: plain data by a target's name, so that no target need be loaded to know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnxgraft.errors import InputError

if TYPE_CHECKING:
    from onnxgraft.plugins.op import PluginOp


@dataclass(frozen=True, kw_only=True)
class TargetTraits:
    """What a target takes.

    Attributes:
        name: the target's, as the command line has it.
        plugins: how it has plugin ops: as ONNX functions, as its own plugins that the default domain names, or not at all.
        topk_limit: the most that one TopK may keep; None for no limit.
        int8: what it computes int8 from: Q/DQ pairs, or the integer operators that they are rewritten into.
        half: how a network is given it in fp16 or bf16; "emulated" where its kernels compute in fp32 all the same.
        types: 16-bit types that a network may have.
        releases: whether it can be compiled for another release of it than the one that is installed.
    """

    name: str
    plugins: Literal["functions", "default-domain", "native"]
    topk_limit: int | None
    int8: Literal["qdq", "integer-kernels"]
    half: Literal["typed", "emulated"]
    types: frozenset[str]
    releases: bool = False

    def has(self, plugin: PluginOp) -> bool:
        """Whether it has a plugin op, so that the node need not be lowered."""
        if self.plugins == "default-domain":
            return self.name in plugin.targets
        return self.plugins == "functions"


TENSORRT = TargetTraits(
    name="tensorrt", plugins="default-domain", topk_limit=3840, int8="qdq", half="typed",
    types=frozenset({"fp16", "bf16"}), releases=True,
)  # fmt: skip
TENSORRT_RTX = TargetTraits(
    name="tensorrt-rtx", plugins="native", topk_limit=3840, int8="qdq", half="typed",
    types=frozenset({"fp16", "bf16"}),
)  # fmt: skip
ONNXRUNTIME = TargetTraits(
    name="onnxruntime", plugins="functions", topk_limit=None, int8="integer-kernels", half="emulated",
    types=frozenset({"fp16"}),
)  # fmt: skip
TRAITS = {traits.name: traits for traits in (TENSORRT, TENSORRT_RTX, ONNXRUNTIME)}


def traits_of(name: str) -> TargetTraits:
    """The traits of the target of that name. Raises InputError for another name."""
    if name not in TRAITS:
        raise InputError(f"there is no target {name!r}: give one of {', '.join(TRAITS)}")
    return TRAITS[name]
