"""Hostile files: each is read as the product reads it, in a process with limits of memory and time.

    python -m campaigns.fuzz_files --cases 10500 --seed 1
    python -m campaigns.fuzz_files --seed 1 --only model --case 37 --keep m.onnx    # one case again, and its file

A case ends well when the file is read, or refused by an error of the product's own in one line. Everything else is a fault:
another exception, a crash, more than MEMORY beyond what the process had, more than SECONDS of the processor.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from campaigns.cases import Kind, kinds
from campaigns.harness import workers
from onnxgraft.errors import OnnxgraftError

MEMORY, SECONDS = 1 << 30, 30  # bytes; of the processor
PATIENCE = 20  # times as long a case may wait, on a busy machine
WEIGHTS = {"model": 4, "structure": 4, "image": 2}  # others once


def changed(kind: Kind, name: str, seed: int, case: int) -> bytes:
    """The file of a case; the same on every machine."""
    chance = random.Random(f"{seed}/{name}/{case}")
    return kind.change(chance, chance.choice(kind.seeds))


def attempt(kind: Kind, data: bytes) -> str:
    """ "read", "refused", or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE * SECONDS)
        try:
            kind.read(path)
        except OnnxgraftError as error:
            if not str(error).strip():
                return "FAULT a refusal without a word"
            internal = any(word in str(error) for word in ("IndexError", "KeyError", "TypeError", "AttributeError"))
            return f"FAULT {' '.join(str(error).split())[:300]}" if internal else "refused"
        except RecursionError:  # which the program tells in one line
            return "refused"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            words = " ".join(str(error).split())[:150]
            return f"FAULT {type(error).__name__}: {words} ({Path(where.filename).name}:{where.lineno})"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
    return "read"


def plan(names: list[str], cases: int) -> list[tuple[str, int]]:
    """(kind, number) of every case."""
    order = [name for name in names for _ in range(WEIGHTS.get(name, 1))]
    return [(order[i % len(order)], i) for i in range(cases)]


def work(seed: int, todo: list[tuple[str, int]]) -> None:
    """Run cases and print one line each; the parent sees a crash by the line that is missing."""
    with tempfile.TemporaryDirectory() as folder:
        known = kinds(Path(folder))
        for name in {name for name, _ in todo}:
            attempt(known[name], known[name].seeds[-1])  # what is loaded once does not count
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for name, case in todo:
            print(f"{name}\t{case}\t{attempt(known[name], changed(known[name], name, seed, case))}", flush=True)


def run(seed: int, todo: list[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
    """(kind, number, verdict) of every case."""
    return workers("campaigns.fuzz_files", ["--seed", str(seed)], todo)


def main() -> None:
    parser = argparse.ArgumentParser(description="Read hostile files.")
    parser.add_argument("--cases", type=int, default=10_500)
    parser.add_argument("--first", type=int, default=0, help="leave out the cases before this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one kind")
    parser.add_argument("--case", type=int, help="one case, in this process")
    parser.add_argument("--keep", type=Path, help="write the case's file here")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.seed, [(name, int(case)) for name, case in (line.split("\t") for line in sys.stdin)])
        return
    with tempfile.TemporaryDirectory() as folder:
        known = kinds(Path(folder))
        if args.case is not None:
            data = changed(known[args.only], args.only, args.seed, args.case)
            if args.keep:
                args.keep.write_bytes(data)
            print(attempt(known[args.only], data))
            return
    found: Counter[tuple[str, str]] = Counter()
    todo = plan([args.only] if args.only else list(known), args.cases)[args.first :]
    for name, case, verdict in run(args.seed, todo):
        found[name, verdict.split()[0]] += 1
        if verdict not in ("read", "refused"):
            print(f"{name} {case}: {verdict}", flush=True)
    for name in known:
        counts = ", ".join(f"{count} {verdict}" for (kind, verdict), count in sorted(found.items()) if kind == name)
        print(f"{name:12} {counts}")
    faults = sum(count for (_, verdict), count in found.items() if verdict not in ("read", "refused"))
    print(f"seed {args.seed}: {sum(found.values())} cases, {faults} faults")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
