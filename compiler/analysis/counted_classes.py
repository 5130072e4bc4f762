"""Classes that a detector counts from 1, as its background is class 0: the form of an output without a node that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxgraft.detector.output_forms import OutputForm
from onnxgraft.detector.outputs import Role
from onnxgraft.detector.spec import DetectorSpec


def counted_forms(forms: Sequence[OutputForm], spec: DetectorSpec) -> tuple[OutputForm, ...]:
    """The forms, with that of classes which a detector with its background in front counts from 1."""
    first, name = spec.first_class, spec.outputs.classes_tensor or ""
    if not first:
        return tuple(forms)
    own = next((form for form in forms if form.taken == name), OutputForm(Role.CLASSES.value, name, name))
    counted = replace(own, first=own.first + first)
    return (*(form for form in forms if form is not own), *(() if counted.plain else (counted,)))
