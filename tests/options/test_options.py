"""The declared options: what they refuse, and that passes, flags and JSON follow from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from onnxgraft import targets
from onnxgraft.cli.options import add, metavar
from onnxgraft.errors import InputError
from onnxgraft.options import CompileOptions, Options, Size, as_dict, as_flags, declared, settings, without_effect
from onnxgraft.passes.default import default_pipeline, known_passes

GIVEN = Options(
    precision="int8", size=Size(64, 96), score_threshold=0.25, image_sizes=True, skip=("simplify", "mask-head"), checks=False,
    calib=Path("images"), calib_method="percentile", calib_percentile=99.5, calib_images=7, compute_capabilities=("8.6,8.9",),
)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"detections": 0}, "--detections is 0: give 1 or more"),
        ({"batch": 0}, "--batch is 0: give 1 or more"),
        ({"score_threshold": 1.5}, "--score-threshold is 1.5: give 0 to 1"),
        ({"iou_threshold": 2}, "--iou-threshold is 2: give 0 to 1"),
        ({"rpn_score_threshold": -0.1}, "--rpn-score-threshold is -0.1: give 0 to 1"),
        ({"calib_images": 0}, "--calib-images is 0: give 1 or more"),
        ({"precision": "fp8"}, "--precision: 'fp8' is not one of fp32, fp16, bf16, int8"),
        ({"calib_percentile": 99.0}, "--calib-percentile has no effect here: give --calib-method percentile too"),
    ],
)
def test_values_that_cannot_be_meant(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as refused:
        Options(**values)
    assert str(refused.value) == reason


def test_the_targets_are_the_ones_there_are() -> None:
    (hint,) = [option.hint for option in declared(Options) if option.name == "target"]
    assert metavar(hint) == "|".join(targets.names())


def test_every_option_goes_to_a_field_that_its_pass_has() -> None:
    registry = known_passes()
    for option in declared(CompileOptions):
        for place in option.opt.to:
            name, _, field = place.partition(".")
            fields = {f.name for f in dataclasses.fields(registry[name])}
            wanted = {"height", "width"} if option.name in ("size", "content_size") else {field or option.name}
            assert wanted <= fields, f"{option.flag} to {place}"
        for name in option.opt.serves:
            assert registry[name]


def test_every_option_of_the_passes_changes_the_pipeline() -> None:
    """A value other than the default shows in the text of the pipeline, so that none is lost on the way."""
    others = {"size": Size(64, 96), "content_size": Size(32, 64), "batch": 2, "proposals": 7, "keep_fp16": "rpn",
              "keep_fp32": "rpn", "detections": 7, "score_threshold": 0.125, "iou_threshold": 0.125,
              "rpn_score_threshold": 0.125, "max_candidates": 7, "release": "8.6"}  # fmt: skip
    for option in declared(CompileOptions):
        hint = get_args(option.hint)[0]
        other = others.get(option.name)
        if other is None:
            other = not option.default if isinstance(option.default, bool) else get_args(hint)[1]
        base = Options(precision="int8")
        changed = dataclasses.replace(base, **{option.name: other})
        assert str(default_pipeline(changed, "tensorrt")) != str(default_pipeline(base, "tensorrt")), option.flag


def test_settings_of_a_pass() -> None:
    assert settings(GIVEN, "fix-input") == {"height": 64, "width": 96, "batch": 1, "allow_unknown_outputs": False}
    assert settings(GIVEN, "box-nms") == settings(GIVEN, "dense-nms") == {"score_threshold": 0.25}
    assert settings(Options(keep_fp16="rpn"), "quantize") == {"keep": "rpn"}
    assert settings(GIVEN, "simplify") == {}


def test_options_that_nothing_takes() -> None:
    flags = [option.flag for option in without_effect(GIVEN, {"fix-input", "normalize-input", "box-nms"})]
    assert flags == ["--calib", "--calib-method", "--calib-percentile", "--calib-images"]
    assert without_effect(GIVEN, {step.name() for step in default_pipeline(GIVEN, "onnxruntime").passes}) == []


def read(flags: list[str]) -> Options:
    """What a command named build is given by these flags."""
    found: list[Options] = []

    def build(options: Options) -> None:
        found.append(options)

    app = typer.Typer(rich_markup_mode=None)
    add(app, build)
    app(flags, standalone_mode=False)
    return found[0]


def test_flags_give_the_options_again() -> None:
    flags = as_flags(GIVEN)
    assert flags[:4] == ["--precision", "int8", "--size", "64x96"]
    assert ["--calib", str(Path("images").absolute())] == flags[flags.index("--calib") :][:2]
    assert flags.count("--skip") == 2
    assert "--no-checks" in flags
    assert read(flags) == dataclasses.replace(GIVEN, calib=Path("images").absolute())
    assert as_flags(Options()) == []


def test_json() -> None:
    plain = as_dict(GIVEN)
    assert plain["size"] == "64x96"
    assert plain["calib"] == "images"
    assert plain["skip"] == ["simplify", "mask-head"]
    assert plain["compute_capabilities"] == ["8.6", "8.9"]
    assert Options(**plain) == GIVEN
