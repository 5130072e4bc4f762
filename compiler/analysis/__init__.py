"""Recognition of detectors in raw graphs, by structure and by measurement, never by name.

Each family is one module over shared pieces (input, RPN, pooler, box head, mask head). `analyse` tries them in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from onnxgraft.analysis import dense, proposal_network, rcnn, semantic
from onnxgraft.analysis.account import Account, account
from onnxgraft.analysis.architectures import unknown_architecture
from onnxgraft.analysis.foreign import refuse_foreign
from onnxgraft.detector.spec import DetectorSpec
from onnxgraft.errors import Refusal
from onnxgraft.ir.folding import settle
from onnxgraft.ir.graph import Graph
from onnxgraft.ir.normal_forms import normalise

Family = tuple[Callable[[Graph], bool], Callable[[Graph], DetectorSpec]]

FAMILIES: list[Family] = [
    (rcnn.matches, rcnn.analyse_rcnn),
    (proposal_network.matches, proposal_network.analyse_proposal_network),
    (dense.matches, dense.analyse_dense),
    (semantic.matches, semantic.analyse_semantic),
]


def analyse(graph: Graph) -> DetectorSpec:
    """Say what detector a simplified graph holds.

    Raises:
        Refusal: no known family, or a member with an unknown variation: names the node and the reason.
    """
    return analyse_and_account(graph)[0]


def analyse_and_account(graph: Graph) -> tuple[DetectorSpec, Account]:
    """As `analyse`, with what every node is there for.

    A graph that is refused as it stands is read once more, without what only hands on its input.
    """
    try:
        return _recognised(graph)
    except Refusal:
        if not normalise(graph, rare=True):
            raise
    while normalise(graph, rare=True):
        pass
    settle(graph)
    spec, found = _recognised(graph)
    return spec, replace(found, as_it_stands=False)


def read(graph: Graph) -> DetectorSpec:
    """As `analyse`, of a graph whose parts were held against their formulas before, as it stands.

    Raises:
        Refusal: as `analyse`, but for what only holding the parts shows.
    """
    return _recognised(graph, hold=False)[0]


def _recognised(graph: Graph, hold: bool = True) -> tuple[DetectorSpec, Account]:
    refuse_foreign(graph)
    for matches, recognise in FAMILIES:
        if matches(graph):
            try:
                spec = recognise(graph)
                return spec, account(graph, spec) if hold else Account(())
            except (ArithmeticError, ValueError, LookupError) as error:
                raise Refusal(f"the graph has numbers or shapes that no detector of detectron2 has: {error}") from error
    raise unknown_architecture(graph)


__all__ = ["FAMILIES", "Account", "analyse", "analyse_and_account", "read"]
