"""Changed detectors: each is compiled to the answers that it gives itself in ONNX Runtime, or refused.

    python -m campaigns.fuzz_graphs --minutes 30 --seed 1
    python -m campaigns.fuzz_graphs --seed 1 --only "a class filter" --case 37 --keep m.onnx   # one case again, and its file

A change "changing" may alter the answers; it counts when it does, on pictures or on inputs of a part that reach its corners. A
change "preserving" does not alter them. What a case ends with:

    agree       compiled, and the build answers as the mutant does
    refused     with one line
    unproved    compiled, and the build says that it was not proved
    same        a change without an effect (changing), or with one (preserving): does not count
    invalid     ONNX Runtime takes no such graph, or it has no place for the change: does not count
    WRONG       compiled to other answers in silence
    INTERNAL    anything else than a refusal
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from campaigns.harness import workers
from campaigns.mutants import forks
from campaigns.mutants.bases import FORMS, PLAIN, WEIGHTS, Answers, Base, Form, base, has_form, one_thread_each, resized
from campaigns.mutants.changing import CHANGING
from campaigns.mutants.edit import Edit, NoPlaceError
from campaigns.mutants.preserving import PRESERVING
from campaigns.mutants.truth import build_differs, corner_effect, difference
from onnxgraft.errors import OnnxgraftError, Refusal
from onnxgraft.ir.graph import IR_VERSION
from onnxgraft.proof import witness
from onnxgraft.proof.prove import prove

ATTEMPTS = 12  # until a change has a place, and the effect that its kind wants
FAULTS = ("WRONG", "INTERNAL", "CRASH", "HANG")
COUNTED = ("agree", "refused", "unproved", *FAULTS)


@dataclass(frozen=True)
class Mutant:
    """A base, the changes that it got, (kind, what its choices follow from), and the form in which it is built."""

    base: tuple[str, bool]
    steps: tuple[tuple[str, str], ...]
    form: Form = PLAIN

    def make(self) -> tuple[Base, onnx.ModelProto, list[str]]:
        """The base, the changed model, and what was done. Raises NoPlaceError."""
        held = base(*self.base)
        edit = Edit(held.graph(), random.Random())
        for kind, salt in self.steps:
            edit.chance = random.Random(salt)
            {**CHANGING, **PRESERVING}[kind](edit)
        edit.graph.cleanup(remove_unused_graph_inputs=False)
        model = gs.export_onnx(edit.graph, do_type_check=False)
        model.ir_version = IR_VERSION
        return held, model, edit.said


def mutants(seed: int, kind: str, case: int) -> Iterator[Mutant]:
    """The mutants of a case, until one fits; the same on every machine."""
    for attempt in range(ATTEMPTS):
        chance = random.Random(f"{seed}/{kind}/{case}/{attempt}")
        name = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        settled = chance.random() < 0.7
        more = chance.choice([0, 0, 0, 1, 2]) if kind in PRESERVING else chance.choice([0, 0, 0, 0, 1])
        steps = [(chance.choice([k for k in PRESERVING if k != "other names"]), str(chance.random())) for _ in range(more)]
        form = random.Random(f"{seed}/{kind}/{case}/form").choice(FORMS)
        if not has_form(name, settled, form):
            form = PLAIN
        yield Mutant((name, settled), (*steps, (kind, str(chance.random()))), form)


def verdict(mutant: Mutant, keep: Path | None = None, patience: bool = True) -> str:
    """What becomes of a mutant.

    Args:
        keep: where its file is written.
        patience: False for changes whose effect shows on pictures alone.
    """
    try:
        held, model, said = mutant.make()
        answers = Answers(model, held.spec)
        shown = held.pictures()
        expected = answers(shown[:2])
    except NoPlaceError:
        return "invalid no place"
    except (ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidArgument, ort_errors.NotImplemented,
            ort_errors.RuntimeException, ort_errors.InvalidProtobuf, ort_errors.EPFail) as error:  # fmt: skip
        return f"invalid {' '.join(str(error).split())[:80]}"
    if keep is not None:
        onnx.save(model, keep)
    effects = [difference(a, b) for a, b in zip(held.answers(), expected, strict=False)]
    effect = next((e for e in effects if e is not None), None)
    changes = any(kind in CHANGING for kind, _ in mutant.steps)
    with tempfile.TemporaryDirectory() as folder:
        if changes and effect is None and held.settled and patience:
            effect = corner_effect(held, model, Path(folder))
        if changes != (effect is not None):
            return "same"
        words = _compiled(held, model, mutant.form, answers, expected, Path(folder))
    return f"{words} [{mutant.base[0]}{' settled' if mutant.base[1] else ''}{mutant.form}: {'; '.join(said)[:300]}]"


def _compiled(
    held: Base, model: onnx.ModelProto, form: Form, answers: Answers, expected: Sequence[object], folder: Path
) -> str:
    path = folder / "mutant.onnx"
    onnx.save(model, path)
    steps = held.steps(form)
    try:
        seen = witness.run(path, steps, held.order)
        proof = prove(path, steps, seen, exact_padding=form.exact_padding)
    except OnnxgraftError as error:
        words = str(error)
        bare = isinstance(error, Refusal) and error.node is None
        if "\n" in words or not words.strip():
            return f"INTERNAL a refusal of other than one line: {words!r}"
        return f"refused{' (no node)' if bare else ''} {type(error).__name__}: {words[:300]}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        words = " ".join(str(error).split())[:200]
        return f"INTERNAL {type(error).__name__}: {words} ({Path(where.filename).name}:{where.lineno})"
    assert seen.recognised is not None
    shown = held.pictures()
    if any(form.more):
        size = held.size_of(form)
        answers, shown, expected = Answers(resized(seen.file(size), size), held.spec), held.pictures_of(form), []
    spec = seen.recognised.ctx.spec()
    known = not spec.output_forms and spec.image.exported_order == answers.order
    answers.forms, answers.order = spec.output_forms, spec.image.exported_order
    try:
        every = answers(shown) if not known else [*expected, *answers(shown[len(expected) :])]
    except ort_errors.Fail as error:  # no candidate at all on a level, where the export cannot do without
        return f"invalid at another size: {' '.join(str(error).split())[:80]}"
    wrong = build_differs(answers, seen.sides(seen.recognised), shown, every, folder)  # type: ignore[arg-type]
    if proof.missing is not None:
        return f"unproved {proof.missing} ({'differs: ' + wrong if wrong else 'agrees'})"
    return f"WRONG {wrong}" if wrong is not None else "agree"


def attempt(seed: int, kind: str, case: int, keep: Path | None = None) -> str:
    """The verdict of a case: of its first mutant that counts."""
    last = "invalid"
    for number, mutant in enumerate(mutants(seed, kind, case)):
        last = verdict(mutant, keep)
        if last.split()[0] in COUNTED:
            return f"{last} (attempt {number})"
    return last


def shrink(mutant: Mutant) -> Mutant:
    """A failing mutant with fewer changes, of the settled form, where these fail as well."""
    word = verdict(mutant).split()[0]
    tried = [Mutant(mutant.base, tuple(s for s in mutant.steps if s is not left), mutant.form) for left in mutant.steps[:-1]]
    tried.append(Mutant((mutant.base[0], True), mutant.steps, mutant.form))
    tried.append(Mutant(mutant.base, mutant.steps))
    for smaller in tried:
        if smaller != mutant and verdict(smaller).split()[0] == word:
            return shrink(smaller)
    return mutant


def plan(kinds: Sequence[str], cases: int, first: int = 0) -> list[tuple[str, int]]:
    """(kind, number) of every case: kinds in turn."""
    return [(kinds[i % len(kinds)], i // len(kinds)) for i in range(first, cases)]


def run(seed: int, todo: list[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
    """(kind, number, verdict) of every case."""
    return workers("campaigns.fuzz_graphs", ["--seed", str(seed)], todo)


def work(seed: int) -> None:
    """Run cases from standard input and print one line each."""
    one_thread_each()
    for kind, case in [line.rstrip("\n").split("\t") for line in sys.stdin]:
        print(f"{kind}\t{case}\t{attempt(seed, kind, int(case))}", flush=True)


def table(found: Counter[tuple[str, str]]) -> str:
    """Counts by kind and verdict, and of both classes."""
    lines = []
    for title, kinds in (("changing", CHANGING), ("preserving", PRESERVING)):
        total: Counter[str] = Counter()
        for kind in kinds:
            counts = {v: n for (k, v), n in found.items() if k == kind}
            total.update(counts)
            if counts:
                lines.append(f"{kind:50} " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items())))
        counted = sum(total[v] for v in COUNTED)
        lines.append(
            f"{title}: {counted} counted of {total.total()}: " + ", ".join(f"{n} {v}" for v, n in sorted(total.items()))
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile changed detectors.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="leave out the cases before this one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one kind, or `changing`, `forks` of them, or `preserving`")
    parser.add_argument("--case", type=int, help="one case, in this process")
    parser.add_argument("--keep", type=Path, help="write the case's file here")
    parser.add_argument("--log", type=Path, help="append every case to this file, and leave out those that it holds")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.seed)
        return
    if args.case is not None:
        _again(args.seed, args.only, args.case, args.keep)
        return
    own = [kind for kind, change in CHANGING.items() if change.__module__ == forks.__name__]
    groups = {"changing": list(CHANGING), "forks": own, "preserving": list(PRESERVING), None: [*CHANGING, *PRESERVING]}
    kinds = groups.get(args.only) or [args.only]
    found: Counter[tuple[str, str]] = Counter()
    held = args.log.read_text().splitlines() if args.log and args.log.is_file() else []
    known = {(kind, int(case)): words for kind, case, words in (line.split("\t", 2) for line in held)}
    for (kind, _), words in known.items():
        found[kind, words.split()[0]] += 1
    todo = [each for each in plan(kinds, args.cases, args.first) if each not in known]
    end = time.monotonic() + 60 * args.minutes
    for kind, case, words in run(args.seed, todo):
        found[kind, words.split()[0]] += 1
        if args.log:
            with args.log.open("a") as log:
                log.write(f"{kind}\t{case}\t{words}\n")
        if words.startswith(FAULTS) or (kind in PRESERVING and words.startswith("refused")):
            print(f"{kind} {case}: {words}", flush=True)
        if time.monotonic() > end:
            break
    print(table(found))
    faults = sum(n for (_, word), n in found.items() if word in FAULTS)
    print(f"seed {args.seed}: {found.total()} cases, {faults} faults")
    sys.exit(faults > 0)


def _again(seed: int, kind: str, case: int, keep: Path | None) -> None:
    for mutant in mutants(seed, kind, case):
        words = verdict(mutant, keep)
        print(words, flush=True)
        if words.split()[0] in FAULTS:
            smaller = shrink(mutant)
            print(f"shrunk to {smaller}: {verdict(smaller, keep)}")
        if words.split()[0] in COUNTED:
            return


if __name__ == "__main__":
    main()
