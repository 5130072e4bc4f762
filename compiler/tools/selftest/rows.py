"""What a self-test consists of: a row for each detector, target, form and precision."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnxgraft import targets
from onnxgraft.errors import InputError
from onnxgraft.golden import catalog
from onnxgraft.golden.references import is_thin, is_trained
from onnxgraft.targets.traits import traits_of

Form = Literal["plugin", "native"]
Precision = Literal["fp32", "fp16", "int8"]
FORMS: tuple[Form, ...] = ("plugin", "native")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Row:
    """One build: plugin ops as plugins (in ONNX Runtime: as functions), or everything in standard operators."""

    model: str
    target: str
    form: Form
    precision: Precision

    @property
    def key(self) -> str:
        """Its name: MODEL/TARGET/FORM/PRECISION."""
        return f"{self.model}/{self.target}/{self.form}/{self.precision}"


def models() -> list[str]:
    """The detectors that are tested unless others are named: trained and thin ones that are here, `mask_rcnn` first."""
    found = [name for name in catalog.names() if "@" not in name and (is_thin(name) or is_trained(name))]
    return sorted(found, key=lambda name: (not is_trained(name), name != "mask_rcnn", name))


def rows(only: Sequence[str] = ()) -> list[Row]:
    """The rows of a self-test, the detectors in turn.

    Args:
        only: each several words joined by "/", such as "mask_rcnn/onnxruntime/fp32": a row is taken that has all words of
            one of them. A word is a detector (any golden graph), a target, a form or a precision.

    Raises:
        InputError: a word is none of these, or no row has all of them.
    """
    wanted = [_words(text) for text in only]
    named = [word for words in wanted for word in words if word in catalog.names()]
    every = [
        Row(model, target, form, precision)
        for model in dict.fromkeys([*models(), *named])
        for target in targets.names()
        if target != "auto"
        for form in FORMS
        if not (form == "plugin" and traits_of(target).plugins == "native")
        for precision in PRECISIONS
    ]
    taken = [row for row in every if not wanted or any(words <= set(row.key.split("/")) for words in wanted)]
    if not taken:
        raise InputError(f"--only {' --only '.join(only)}: no row has all of these words")
    return taken


def _words(text: str) -> set[str]:
    known = {*targets.names(), *FORMS, *PRECISIONS, *catalog.names()} - {"auto"}
    words = {word for word in text.split("/") if word}
    for word in sorted(words - known) or ([] if words else [text]):
        near = difflib.get_close_matches(word, known, 1)
        others = ", ".join([*targets.names()[:-1], *FORMS, *PRECISIONS])
        hint = f"; did you mean {near[0]!r}?" if near else f": give a detector, {others}"
        raise InputError(f"--only {text}: {word!r} is not known{hint}")
    return words


def digest_of(model: str) -> str:
    """Of the file, and the recipe of its weights, that a golden graph is made from."""
    home = catalog.folder(model)
    state = hashlib.sha256()
    for file in sorted([*home.glob("model.onnx*"), *home.glob("weights.json")]):
        state.update(file.read_bytes())
    return state.hexdigest()[:16]
