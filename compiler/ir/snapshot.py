"""A graph as it was between two passes, to go on from more than once."""

from __future__ import annotations

from dataclasses import dataclass

from onnxgraft.ir.exporting import Exported
from onnxgraft.ir.graph import Graph, Origin


@dataclass(frozen=True)
class Snapshot:
    """What a graph was. Weights stay where they are.

    Attributes:
        exported: its messages.
        origins: its provenance by node name.
        serial: the last number that made a name unique; who goes on gives the names that the graph itself would have given.
        converted, bytes_to_fold, source_opset: as of the graph.
    """

    exported: Exported
    origins: dict[str, Origin]
    serial: int
    converted: bool
    bytes_to_fold: int
    source_opset: int

    @staticmethod
    def of(graph: Graph) -> Snapshot:
        """The graph as it stands between two passes."""
        exported = graph.observed(Graph.exported)
        return Snapshot(
            exported, dict(graph.origins), graph.serial, graph.converted, graph.bytes_to_fold, graph.source_opset
        )

    def graph(self) -> Graph:
        """A graph of its own."""
        graph = Graph.from_skeleton(self.exported.skeleton())
        graph.origins = dict(self.origins)
        graph.release((), self.serial)
        graph.converted, graph.bytes_to_fold, graph.source_opset = self.converted, self.bytes_to_fold, self.source_opset
        return graph
