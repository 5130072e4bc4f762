"""What an annotation allows: text is read, other values are checked, everything else is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.options.values import Between, Count, Share, Size, coerce, optional, type_text

Mode = Literal["fast", "exact"]


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("7", int, 7),
        (np.int64(7), Count, 7),
        ("0.5", Share | None, 0.5),
        (1, float, 1.0),
        (None, Share | None, None),
        ("none", str | None, "none"),
        ("True", bool, True),
        ("exact", Mode, "exact"),
        ("exact", Annotated[Mode | None, "words"], "exact"),
        ("800x1344", Size, Size(800, 1344)),
        ((64, 96), Size, Size(64, 96)),
        ("a/b", Path, Path("a/b")),
        (["a", "b"], tuple[Path, ...], (Path("a"), Path("b"))),
        ("100", Annotated[float, Between(0, 100, above=True)], 100.0),
    ],
)
def test_values(value: Any, hint: Any, expected: Any) -> None:
    found = coerce(value, hint, "here")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "reason"),
    [
        ("seven", int, "here: 'seven' is not a whole number"),
        (7.5, int, "here: '7.5' is not a whole number"),
        (True, int, "here: 'True' is not a whole number"),
        ("nan", float, "here: 'nan' is not a number"),
        ("inf", float, "here: 'inf' is not a number"),
        ("yes", bool, "here: 'yes' is not true or false"),
        (5, str, "here: '5' is not text"),
        ("quick", Mode, "here: 'quick' is not one of fast, exact"),
        ("0", Count, "here is 0: give 1 or more"),
        ("1.5", Share | None, "here is 1.5: give 0 to 1"),
        (0, Annotated[float, Between(0, 100, above=True)], "here is 0: give above 0 to 100"),
        (0, Annotated[float | None, Between(0, above=True)], "here is 0: give more than 0"),
        ("800", Size, "here: '800' is not HEIGHTxWIDTH, such as 1344x1344"),
        ("1x2x3", Size, "here: '1x2x3' is not HEIGHTxWIDTH, such as 1344x1344"),
    ],
)
def test_other_values_are_refused(value: Any, hint: Any, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        coerce(value, hint, "here")
    assert str(refused.value) == reason


def test_types_as_the_docs_write_them() -> None:
    assert type_text(Share | None) == "float (0 to 1) | None"
    assert type_text(Mode) == "fast | exact"
    assert type_text(Size) == "HEIGHTxWIDTH"
    assert optional(Annotated[int | None, "words"])
    assert not optional(Count)
