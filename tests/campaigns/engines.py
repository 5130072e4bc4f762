"""Runs golden graphs as engines of a release of TensorRT that onnxgraft does not build for itself, on a machine with a GPU.

    pip download --no-deps --only-binary=:all: --python-version 3.10 -d W tensorrt==8.6.0     # unpack it in W
    python -m campaigns.engines --release 8.6 --runner "env PYTHONPATH=W python3.10" --out DIR [--only NAME ...] [--runs 200]

Each is built with --for RELEASE, in plugin and native form, and its trtexec line done by trtexec_line.py under the Python that
the bindings are for. A whole engine is held against PyTorch's stored answers; fp32 forms also part by part: what passes rewrote
is an engine of its own, fed the probes of the proof, so that NVIDIA's plugins meet ties, clamps, edges and empty scenes.
Prints one JSON line each. Without --runner ONNX Runtime stands in for the native form, which tries this program, not TensorRT.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxgraft.files import CACHE
from onnxgraft.golden import catalog, references
from onnxgraft.ir.graph import Graph
from onnxgraft.manifest import Manifest
from onnxgraft.passes.default import parse_pipeline
from onnxgraft.proof import witness
from onnxgraft.proof.cut import CutError, model_between
from onnxgraft.proof.parts import Part
from onnxgraft.proof.plan import parts_of
from onnxgraft.runtime.comparison import match
from onnxgraft.runtime.read_outputs import from_outputs
from onnxgraft.runtime.session import Session
from onnxgraft.targets import OrtRunner
from onnxgraft.tools.verify import TOLERANCES

FORMS = {"plugin": (), "native": ("--nms", "native", "--roi-align", "native")}
LINE = Path(__file__).with_name("trtexec_line.py")
Arrays = dict[str, NDArray[Any]]


class Runner:
    """Runs files as engines. command: the Python of the bindings, or "" for ONNX Runtime."""

    def __init__(self, command: str, level: int, runs: int) -> None:
        self._command, self._level, self._runs = shlex.split(command), level, runs

    def __call__(self, file: Path, line: str, feeds: Sequence[Arrays]) -> tuple[dict[str, Any], list[Arrays]]:
        """What the engine of a file says of itself, and its outputs for each of the feeds."""
        out = file.parent / f"{file.stem}.run"
        out.mkdir(exist_ok=True)
        if not self._command:
            given = OrtRunner(file)
            return {"ok": True, "tensorrt": None}, [dict(given(feed)) for feed in feeds]
        held = [{name: _raw(out / f"{i}-{_safe(name)}.in", a) for name, a in feed.items()} for i, feed in enumerate(feeds)]
        job = {"onnx": str(file), "line": line.split()[1:], "feeds": held, "out": str(out), "level": self._level,
               "runs": self._runs}  # fmt: skip
        (out / "job.json").write_text(json.dumps(job))
        done = subprocess.run([*self._command, str(LINE), str(out / "job.json")], capture_output=True, text=True, check=False)
        if not (out / "result.json").is_file():
            return {"ok": False, "error": f"ended with {done.returncode}: {done.stderr[-500:]}"}, []
        result = json.loads((out / "result.json").read_text())
        kinds = {name: (kind, shape) for name, (kind, shape, taken) in result.pop("tensors", {}).items() if not taken}
        return result, [_read(out / str(number), kinds) for number in range(len(feeds))] if result["ok"] else []


def _safe(name: str) -> str:
    return name.replace("/", "~")


def _raw(file: Path, array: NDArray[Any]) -> str:
    np.ascontiguousarray(array.astype(np.int32) if array.dtype == np.int64 else array).tofile(file)
    return str(file)


def _read(folder: Path, kinds: Mapping[str, tuple[str, list[int]]]) -> Arrays:
    return {name: np.fromfile(folder / f"{_safe(name)}.bin", kind).reshape(shape) for name, (kind, shape) in kinds.items()}


def compiled(name: str, form: str, precision: str, release: str, out: Path) -> Path:
    """A golden graph's build for a release, at the size of its answers. Raises CalledProcessError."""
    folder = out / f"{name}-{form}-{precision}"
    _, height, width = json.loads((catalog.folder(name) / "meta.json").read_text())["input"]["shape"]
    asked = ["--for", release, "--precision", precision, "--size", f"{height}x{width}", "--no-proof", *FORMS[form]]
    line = [sys.executable, "-m", "onnxgraft", "build", name, *asked, "-o", str(folder)]
    subprocess.run(line, check=True, capture_output=True, text=True)
    return folder


def whole(name: str, folder: Path, run: Runner) -> dict[str, Any]:
    """A build as an engine, held against PyTorch's answers."""
    session = Session(folder, engine="onnxruntime")
    manifest, cases, feeds = session.manifest, list(references.answers(name, 2)), []
    for answer in cases:
        if answer.proposals is not None:
            session.proposals = lambda *_, held=answer.proposals: held  # type: ignore[misc]
        feeds.append(session.feeds([session.place(answer.image)]))
    row, found = run(folder / manifest.model, manifest.trtexec, feeds)
    limit = TOLERANCES[manifest.precision]
    reports = [match(answer.detections, from_outputs(outputs, manifest.io, 0), limit.iou, limit.score, limit.mask, limit.logits)
               for answer, outputs in zip(cases, found, strict=False)]  # fmt: skip
    return {**row, "share": [report.share for report in reports], "against PyTorch": [str(report) for report in reports]}


def by_parts(name: str, folder: Path, run: Runner) -> Iterator[dict[str, Any]]:
    """The rewritten parts of a build as engines, on the probes of the proof."""
    manifest = Manifest.read(folder)
    steps = [step.as_exported() for step in parse_pipeline(manifest.pipeline).passes]
    seen = witness.run(catalog.resolve(name, CACHE), steps, None)
    assert seen.recognised is not None
    delivered = Graph.load(folder / manifest.model)
    for part in parts_of(seen.sides(seen.recognised)):
        try:
            yield {"part": part.name, **_part(part, delivered, folder / f"{part.name.replace(' ', '-')}.onnx", run)}
        except CutError as error:
            yield {"part": part.name, "ok": False, "error": str(error)}


def _part(part: Part, delivered: Graph, file: Path, run: Runner) -> dict[str, Any]:
    probes = list(part.probes())
    fed = [part.feeds_of_build([probe]) for probe in probes]
    model = cut(delivered, fed[0], list(part.build.outputs))
    onnx.save(model, file)
    used = {value.name for value in model.graph.input}
    row, found = run(file, "trtexec", [{name: array for name, array in feed.items() if name in used} for feed in fed])
    pairs = list(zip(probes, found, strict=False))
    words = [part.compare(probe, part.of_file(probe), part.in_roles(outputs), 0, 1).difference for probe, outputs in pairs]
    differ = [f"{probe.name}: {said}" for probe, said in zip(probes, words, strict=False) if said is not None]
    return {**row, "probes": len(words), "differ": differ}


def cut(graph: Graph, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> onnx.ModelProto:
    """What a delivered graph computes between tensors, for feeds of these shapes. Raises CutError."""
    model = model_between(graph, list(feeds), outputs)
    del model.opset_import[1:]  # of our functions, which a delivered graph has none of
    for value in model.graph.input:
        shape = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, feeds[value.name].shape)
        value.type.CopyFrom(shape)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Run golden graphs as engines of TensorRT.")
    parser.add_argument("--release", default="8.6")
    parser.add_argument("--runner", default="", help="the Python of the bindings, with what it needs in its environment")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="golden graphs [all]")
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=FORMS)
    parser.add_argument("--precisions", nargs="*", default=["fp32"], choices=["fp32", "fp16", "int8"])
    parser.add_argument("--level", type=int, default=1, help="the builder's optimization level; 3 where times count")
    parser.add_argument("--runs", type=int, default=0, help="timed runs; 0 times nothing")
    args = parser.parse_args()
    run = Runner(args.runner, args.level, args.runs)
    for name, form, precision in ((n, f, p) for n in args.only or catalog.names() for f in args.forms for p in args.precisions):
        told = {"model": name, "form": form, "precision": precision}
        try:
            folder = compiled(name, form, precision, args.release, args.out)
        except subprocess.CalledProcessError as error:
            print(json.dumps({**told, "ok": False, "error": error.stderr.strip()[-500:]}), flush=True)
            continue
        print(json.dumps({**told, **whole(name, folder, run)}), flush=True)
        for row in by_parts(name, folder, run) if precision == "fp32" else ():
            print(json.dumps({**told, **row}), flush=True)


if __name__ == "__main__":
    main()
