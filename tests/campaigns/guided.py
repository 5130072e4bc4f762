"""Hostile files whose changes are led by what they reach in the code, with atheris.

    python -m campaigns.guided --kind model --runs 10000 --seed 1 --corpus build/fuzz/model

The changes are those of `mutate`, beside libFuzzer's own; what reaches new branches of onnxgraft is kept in the corpus and
changed further. A fault is printed once for each place and the search goes on; a crash or a hang ends it with the file beside
the corpus. Needs atheris (pip install atheris), which has wheels for Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("error: campaigns.guided needs atheris: pip install atheris (campaigns.fuzz_files does without)")

with atheris.instrument_imports(include=["onnxgraft"]):
    from campaigns.cases import Kind, kinds
from campaigns.fuzz_files import MEMORY, SECONDS, attempt

LARGEST = 1 << 20  # bytes of a file


class Search:
    """One kind of file under attack; counts verdicts and keeps one file of each fault."""

    def __init__(self, kind: Kind, corpus: Path) -> None:
        self.kind, self.corpus = kind, corpus
        self.counts = {"read": 0, "refused": 0}
        self.faults: dict[str, Path] = {}

    def one(self, data: bytes) -> None:
        """Read one file; libFuzzer calls this."""
        self.corpus.with_name(f"{self.corpus.name}-last").write_bytes(data)  # what is left when one takes too long
        verdict = attempt(self.kind, data)
        if verdict in self.counts:
            self.counts[verdict] += 1
        elif verdict not in self.faults:
            self.faults[verdict] = self.corpus.with_name(f"{self.corpus.name}-{hashlib.sha256(data).hexdigest()[:12]}")
            self.faults[verdict].write_bytes(data)
            print(f"{self.faults[verdict]}: {verdict}", flush=True)

    def change(self, data: bytes, largest: int, seed: int) -> bytes:
        """Half of the changes are ours, which know the format."""
        chance = random.Random(seed)
        if not data or chance.random() < 0.05:
            return chance.choice(self.kind.seeds)[:largest]
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, largest))
        try:
            return self.kind.change(chance, data)[:largest]
        except (ValueError, RecursionError):  # no JSON any more, or too deep
            return bytes(atheris.Mutate(data, largest))


def main() -> None:
    parser = argparse.ArgumentParser(description="Search for hostile files.")
    parser.add_argument("--kind", default="model")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, required=True, help="a folder; an earlier one is gone on with")
    args = parser.parse_args()
    args.corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        kind = kinds(Path(folder))[args.kind]
        for seed in kind.seeds:
            (args.corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        search = Search(kind, args.corpus)
        attempt(kind, kind.seeds[-1])  # what is loaded once does not count
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        limits = [f"-rss_limit_mb={used + (MEMORY >> 20)}", f"-timeout={SECONDS}", f"-max_len={LARGEST}"]
        words = [sys.argv[0], f"-runs={args.runs}", f"-seed={args.seed}", *limits, f"-artifact_prefix={args.corpus}-"]
        words.append(str(args.corpus))
        atheris.Setup(words, search.one, custom_mutator=search.change)
        try:
            atheris.Fuzz()
        finally:
            print(f"{args.kind}: {search.counts}, {len(search.faults)} faults", flush=True)


if __name__ == "__main__":
    main()
