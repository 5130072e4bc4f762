"""Digests of the compiled graphs: did a change to the compiler change any byte of what it hands over?

    python -m golden_graphs.make.digests --output before.json
    python -m golden_graphs.make.digests --against before.json      # exits with 1 and names every graph that differs

Each golden graph is compiled at a small size for every target, without engine, checks and proof; what is compared is
the sha256 of model.onnx. int8 is calibrated on two pictures of `golden.pictures`. Trained detectors are compiled in fp32,
fp16 and int8, thin members and the full-width graph in fp32 and int8.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from onnxgraft.cli.main import app
from onnxgraft.golden import catalog, pictures

TARGETS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
SIZE = "256x320"
TRAINED = ("fp32", "fp16", "int8")
SEEDED = ("fp32", "int8")


def cases(names: list[str] | None = None) -> Iterator[tuple[str, str, str]]:
    """(golden graph, target, precision) of every compilation."""
    for name in sorted(names or catalog.names()):
        trained = catalog.evaluation(name) is not None
        for precision in TRAINED if trained else SEEDED:
            for target in TARGETS:
                yield name, target, precision


def digest(name: str, target: str, precision: str, calibration: Path) -> str:
    """The sha256 of the model.onnx that one compilation hands over, or the refusal."""
    with tempfile.TemporaryDirectory(prefix="onnxgraft-") as folder:
        words = ["build", name, "--target", target, "--precision", precision, "--size", SIZE]
        words += ["--calib", str(calibration)] if precision == "int8" else []
        words += ["--no-engine", "--no-checks", "--no-proof", "-o", f"{folder}/out"]
        try:
            app(words, standalone_mode=False)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return hashlib.sha256((Path(folder) / "out" / "model.onnx").read_bytes()).hexdigest()


def draw_calibration(folder: Path) -> Path:
    """Two pictures of the canvas size as PNG files."""
    height, width = (int(side) for side in SIZE.split("x"))
    for seed in (1, 2):
        Image.fromarray(pictures.blocks(seed, (height, width))[..., ::-1]).save(folder / f"{seed}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Digests of the compiled golden graphs.")
    parser.add_argument("names", nargs="*", help="golden graphs; all of them without")
    parser.add_argument("--output", type=Path, help="write the table here")
    parser.add_argument("--against", type=Path, help="a table to compare with")
    args = parser.parse_args()
    known = json.loads(args.against.read_text()) if args.against else {}
    table: dict[str, str] = {}
    differing = 0
    folder = tempfile.TemporaryDirectory(prefix="onnxgraft-")
    calibration = draw_calibration(Path(folder.name))
    for case in cases(args.names):
        key = " ".join(case)
        table[key] = digest(*case, calibration)
        same = table[key] == known.get(key, table[key])
        differing += not same
        print(f"{'' if same else 'DIFFERS '}{key}: {table[key][:120]}", file=sys.stderr, flush=True)
        if args.output:
            args.output.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{len(table)} graphs, {differing} differ" if known else f"{len(table)} graphs")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
