"""What was proved of a build, and how that is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from onnxgraft.proof.pictures import Compared
from onnxgraft.runtime.comparison import MatchReport


@dataclass(frozen=True)
class Distance:
    """How far the delivered graph is from the file, where it is so by intent: no more than a measurement.

    kind: what it is: "fp16", "int8". reference, found, matched: numbers of detections above the file's own threshold: of the
    file, of the typed graph, and those of one class with an IoU above 0.5. box_px, score, mask, heatmap, semantic: worst
    differences of these.
    """

    kind: str
    reference: int
    found: int
    matched: int
    box_px: float
    score: float
    mask: float | None = None
    heatmap: float | None = None
    semantic: float | None = None

    def __str__(self) -> str:
        maps = (("masks", self.mask), ("heatmaps", self.heatmap), ("semantic logits", self.semantic))
        told = "".join(f", {what} {worst:.2g}" for what, worst in maps if worst is not None)
        return (f"{self.kind} is at a distance: {self.matched} of {self.reference} detections overlap ({self.found} in all), "
                f"boxes within {self.box_px:.2g} px, scores {self.score:.2g}{told}")  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """What was proved of a build.

    parts, probes: how many parts agreed, on how many inputs. nodes: nodes of the network that are the file's own.
    cuts: probes on which parts that passes of one's own declare gave the same before and after.
    network: where the network is not the file's own, or None. pictures: how many; detections, matched: the file's, and those
    that were found again; undecided: those that are not, and that the file itself loses when its pixels change by a
    thousandth. box_px, score, mask, heatmap, semantic: worst differences on pictures. lowered: the score threshold
    that was set on both sides. ran: the delivered file that was run on pictures; None where it was the graph before it is
    lowered. typed: what the delivered graph is, where it answers otherwise by intent: "int8". distance: of that one, None where
    it was not measured. exported: whether both sides had the export's own numbers, since the chosen ones cannot be given to the
    file. missing: the first thing that was not proved; None when all was. seconds: what it took.
    """

    parts: int = 0
    probes: int = 0
    nodes: int = 0
    network: str | None = None
    cuts: int = 0
    pictures: int = 0
    undecided: int = 0
    detections: int = 0
    matched: int = 0
    box_px: float = 0.0
    score: float = 0.0
    mask: float | None = None
    heatmap: float | None = None
    semantic: float | None = None
    lowered: float | None = None
    ran: str | None = None
    typed: str | None = None
    distance: Distance | None = None
    exported: bool = False
    missing: str | None = None
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether everything was proved."""
        return self.missing is None

    def to_json(self) -> dict[str, Any]:
        """Plain data for the manifest, with the line for people as "said": without the time, which differs."""
        said = {key: value for key, value in asdict(self).items() if key != "seconds"}
        plain = {key: value for key, value in said.items() if value is not None and value is not False}
        return {"said": self.said, **plain}

    def __str__(self) -> str:
        return f"{self.said} ({self.seconds:.1f} s)"

    @property
    def said(self) -> str:
        """What was proved, or the first thing that was not and why, in one line."""
        found = [f"{self.parts} parts on {self.probes} probes"] if self.parts else []
        found += [f"a pass's own part on {self.cuts} probes"] if self.cuts else []
        if self.pictures:
            on = f"on {self.pictures} picture{'s' * (self.pictures != 1)}"
            on += f" in {self.ran}" if self.ran else ""
            on += " with the export's own numbers, not the chosen ones" if self.exported else ""
            if self.lowered is not None:
                on += f" above a score of {self.lowered:.2g}"
            if self.detections:
                maps = (("masks", self.mask), ("heatmaps", self.heatmap))
                unsure = f" ({self.undecided} that rounding decides)" if self.undecided else ""
                told = "".join(f", {what} {worst:.1g}" for what, worst in maps if worst is not None)
                found.append(f"{self.matched} of {self.detections} detections{unsure} {on}, boxes within {self.box_px:.1g} px, "
                             f"scores {self.score:.1g}{told}")  # fmt: skip
            if self.semantic is not None:
                found.append(f"semantic logits within {self.semantic:.1g}" + ("" if self.detections else f" {on}"))
        words = "; ".join(found)
        far = f"; {self.distance}" if self.distance is not None else ""
        if self.missing is None:
            return f"proved{' of the fp32 graph' if self.typed else ''}: {words}{far}"
        return f"not proved: {self.missing}" + (f"; proved: {words}" if words else "") + far

    def with_pictures(self, compared: Compared, typed: str | None = None) -> Proof:
        """This and what pictures said; `typed` names the delivered graph where it answers otherwise by intent."""
        reports = compared.reports
        missing = self.missing or compared.missing

        def worst(what: str) -> float | None:
            return _worst(reports, what)

        return replace(
            self, pictures=len(reports), detections=sum(r.reference for r in reports), matched=sum(r.matched for r in reports),
            box_px=worst("box_px") or 0.0, score=worst("score") or 0.0, mask=worst("mask"), heatmap=worst("heatmap"),
            semantic=worst("semantic"), undecided=sum(compared.undecided), lowered=compared.lowered, missing=missing,
            ran=compared.ran, typed=typed, distance=_distance(compared.distance, typed or ""),
        )  # fmt: skip


def _worst(reports: Sequence[MatchReport], what: str) -> float | None:
    return max((w for r in reports if (w := getattr(r, what)) is not None), default=None)


def _distance(reports: Sequence[MatchReport], kind: str) -> Distance | None:
    if not reports:
        return None
    return Distance(
        kind, sum(r.reference for r in reports), sum(r.found for r in reports), sum(len(r.pairs) for r in reports),
        _worst(reports, "box_px") or 0.0, _worst(reports, "score") or 0.0, _worst(reports, "mask"), _worst(reports, "heatmap"),
        _worst(reports, "semantic"),
    )  # fmt: skip
