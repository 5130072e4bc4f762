"""PyramidROIAlign_TRT and ROIAlign_TRT: functions and native forms against the NumPy oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import oracles
from helpers.plugin_runs import build_rtx, lowered_model, run_function, run_lowered

from onnxgraft.errors import PluginError
from onnxgraft.plugins import REGISTRY

PYRAMID = REGISTRY["PyramidROIAlign_TRT"]
SINGLE = REGISTRY["ROIAlign_TRT"]
SIZE = (128, 192)  # height, width
STRIDES = (4, 8, 16, 32)
P_ATTRS: dict[str, Any] = {"pooled_size": 3, "image_size": list(SIZE), "fpn_scale": 56}
S_ATTRS: dict[str, Any] = {"output_height": 3, "output_width": 4, "spatial_scale": 0.125}
TOLERANCE = 2e-4  # of values in about -4..4; positions are float32


def make_maps(
    rng: np.random.Generator, batch: int, channels: int, size: tuple[int, int] = SIZE
) -> list[np.ndarray]:
    return [
        rng.normal(size=(batch, channels, size[0] // s, size[1] // s)).astype(np.float32)
        for s in STRIDES
    ]


def make_rois(rng: np.random.Generator, batch: int, count: int) -> np.ndarray:
    """Boxes of every size, elongated ones too, some reaching over the border."""
    centre = rng.uniform(0, 1, (batch, count, 2)) * [SIZE[1], SIZE[0]]
    half = np.exp(rng.uniform(np.log(2), np.log(90), (batch, count, 2)))
    return np.concatenate([centre - half, centre + half], axis=2).astype(np.float32)


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=tolerance, rtol=0)


def check_pyramid(
    a: dict[str, Any], *arrays: np.ndarray, tolerance: float = TOLERANCE
) -> np.ndarray:
    expected = oracles.pyramid_roi_align(*arrays, **a)
    close(run_function(PYRAMID, a, *arrays)[0], expected, tolerance)
    close(run_lowered(PYRAMID, a, *arrays)[0], expected, tolerance)
    return expected


@pytest.mark.parametrize("transform", [0, 1, 2])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_pyramid_random_batches(transform: int, ratio: int) -> None:
    rng = np.random.default_rng(1)
    a = {**P_ATTRS, "roi_coords_transform": transform, "sampling_ratio": ratio}
    rois = make_rois(rng, 2, 20)
    rois[1, 7] = [10, -5, 170, 120]
    clipped = np.clip(rois, 0, np.array([SIZE[1], SIZE[0]] * 2, np.float32))
    levels = oracles.pyramid_levels(clipped.reshape(-1, 4), SIZE, 56, 0, 1)
    assert set(levels) == {0, 1, 2, 3}
    check_pyramid(a, rois, *make_maps(rng, 2, 2))


@pytest.mark.parametrize("swap", [0, 1])
@pytest.mark.parametrize("absolute", [0, 1])
@pytest.mark.parametrize("plusone", [0, 1])
def test_pyramid_coordinates(swap: int, absolute: int, plusone: int) -> None:
    rng = np.random.default_rng(2)
    rois = make_rois(rng, 1, 24)
    rois[0, :4] = rois[0, :4][:, [2, 3, 0, 1]]  # corners the wrong way round
    rois[0, 4] = [20, 20, 47.5, 47.5]  # plusone alone takes this one to level 1
    if not absolute:
        rois /= np.array([SIZE[1], SIZE[0]] * 2, np.float32)
    if swap:
        rois = np.ascontiguousarray(rois[..., [1, 0, 3, 2]])
    a = {
        **P_ATTRS,
        "roi_coords_swap": swap,
        "roi_coords_absolute": absolute,
        "roi_coords_plusone": plusone,
    }
    check_pyramid(a, rois, *make_maps(rng, 1, 2))


def test_pyramid_map_sizes_that_are_not_the_image_over_the_stride() -> None:
    rng = np.random.default_rng(3)
    maps = [rng.normal(size=(1, 2, h, w)).astype(np.float32) for h, w in
            ((33, 47), (17, 24), (9, 12), (5, 6))]  # fmt: skip
    check_pyramid(P_ATTRS, make_rois(rng, 1, 20), *maps)


def test_pyramid_levels_at_the_thresholds() -> None:
    """Equality stays on the finer level in the plugin; one float more leaves it."""
    levels = [np.full((1, 1, 256 // s, 256 // s), i, np.float32) for i, s in enumerate(STRIDES)]
    sides = [28, 56, 112]
    just_above = [float(np.nextafter(np.float32(s), np.float32(999))) for s in sides]
    rois = np.array([[[0, 0, s, s] for s in [*sides, *just_above]]], np.float32)
    a = {**P_ATTRS, "image_size": [256, 256]}
    expected = [0, 1, 2, 1, 2, 3]
    for got in (run_function(PYRAMID, a, rois, *levels), run_lowered(PYRAMID, a, rois, *levels)):
        assert got[0][0, :, 0, 0, 0].round().tolist() == expected
    detectron2 = run_lowered(PYRAMID, a, rois, *levels, level_rule="detectron2")
    assert detectron2[0][0, :, 0, 0, 0].round().tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_pyramid_groups_of_boxes_change_nothing(groups: int) -> None:
    rng = np.random.default_rng(16)
    rois, maps = make_rois(rng, 2, 10), make_maps(rng, 2, 2)
    whole = run_lowered(PYRAMID, P_ATTRS, rois, *maps, roi_groups=1)[0]
    expected = oracles.pyramid_roi_align(rois, *maps, **P_ATTRS)
    close(run_lowered(PYRAMID, P_ATTRS, rois, *maps, roi_groups=groups)[0], expected)
    close(run_lowered(PYRAMID, P_ATTRS, rois[:, :7], *maps, roi_groups=groups)[0], whole[:, :7])


def test_detectron2_level_rule() -> None:
    rng = np.random.default_rng(4)
    side = np.exp(rng.uniform(np.log(1), np.log(250), (400, 2)))
    rois = np.concatenate([side * 0, side], axis=1).astype(np.float32)[None]
    levels = [np.full((1, 1, 256 // s, 256 // s), i, np.float32) for i, s in enumerate(STRIDES)]
    a = {**P_ATTRS, "image_size": [256, 256], "sampling_ratio": 1}
    got = run_lowered(PYRAMID, a, rois, *levels, level_rule="detectron2")[0][0, :, 0, 0, 0]
    size = np.sqrt(side.prod(axis=1))
    expected = np.clip(np.floor(4 + np.log2(size / 56 + 1e-8)), 2, 5) - 2
    np.testing.assert_array_equal(got.round(), expected)
    assert np.abs(got - expected).max() < 1e-6


def test_pyramid_degenerate_boxes() -> None:
    rng = np.random.default_rng(5)
    nan = np.nan
    rois = np.array(
        [[
            [0, 0, 0, 0], [50, 50, 50, 50], [10, 20, 90, 20], [10, 20, 10, 90],
            [192, 128, 192, 128], [-50, -50, -10, -10], [500, 500, 900, 900],
            [-1e9, -1e9, 1e9, 1e9], [0, 0, 192, 128], [nan, nan, nan, nan],
            [nan, 10, 40, 60], [10, 10, 40, nan], [-np.inf, 0, np.inf, 30],
        ]],
        np.float32,
    )  # fmt: skip
    expected = check_pyramid(P_ATTRS, rois, *make_maps(rng, 1, 2), tolerance=2e-3)
    assert np.isfinite(expected).all()


def test_pyramid_without_boxes() -> None:
    maps = make_maps(np.random.default_rng(6), 1, 2)
    got = run_function(PYRAMID, P_ATTRS, np.zeros((1, 0, 4), np.float32), *maps)[0]
    assert got.shape == (1, 0, 2, 3, 3)


@pytest.mark.parametrize(("option", "samples"), [("masked4", 4), ("exact", None)])
def test_pyramid_sampling_options(option: str, samples: int | None) -> None:
    rng = np.random.default_rng(7)
    rois, maps = make_rois(rng, 2, 20), make_maps(rng, 2, 2)
    rois[0, 0] = [0, 60, 192, 64]  # elongated: 16 samples across, 1 down
    bounded = oracles.pyramid_roi_align(rois, *maps, **P_ATTRS, most_samples=samples)
    close(run_lowered(PYRAMID, P_ATTRS, rois, *maps, roi_sampling=option)[0], bounded)
    exact = oracles.pyramid_roi_align(rois, *maps, **P_ATTRS)
    assert (np.abs(bounded - exact).max() > 0.1) == (option == "masked4")


def test_pyramid_fixed2_is_sampling_ratio_2() -> None:
    rng = np.random.default_rng(8)
    rois, maps = make_rois(rng, 1, 20), make_maps(rng, 1, 2)
    expected = oracles.pyramid_roi_align(rois, *maps, **P_ATTRS, sampling_ratio=2)
    close(run_lowered(PYRAMID, P_ATTRS, rois, *maps, roi_sampling="fixed2")[0], expected)


@pytest.mark.parametrize("option", ["exact", "fixed2"])
def test_pyramid_half_precision_maps(option: str) -> None:
    rng = np.random.default_rng(9)
    rois, maps = make_rois(rng, 1, 12), make_maps(rng, 1, 3)
    halves = [m.astype(np.float16) for m in maps]
    options = {"roi_sampling": option}
    got = run_lowered(PYRAMID, P_ATTRS, rois, *halves, dtype="float16", **options)[0]
    assert got.dtype == np.float16
    close(got, run_lowered(PYRAMID, P_ATTRS, rois, *maps, **options)[0], tolerance=0.02)


@pytest.mark.parametrize("option", ["exact", "fixed2"])
def test_narrow_maps_are_pooled_as_if_cast_before(option: str) -> None:
    rng = np.random.default_rng(9)
    rois, maps = make_rois(rng, 1, 12), [m.astype(np.float16) for m in make_maps(rng, 1, 3)]
    cast = run_lowered(PYRAMID, P_ATTRS, rois, *(m.astype(np.float32) for m in maps), roi_sampling=option)[0]
    got = run_lowered(PYRAMID, P_ATTRS, rois, *maps, maps="float16", roi_sampling=option)[0]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, cast)
    single, boxes, images = single_inputs(9)
    half = single.astype(np.float16)
    cast = run_lowered(SINGLE, S_ATTRS, half.astype(np.float32), boxes, images, roi_sampling=option)[0]
    got = run_lowered(SINGLE, S_ATTRS, half, boxes, images, maps="float16", roi_sampling=option)[0]
    np.testing.assert_array_equal(got, cast)


@pytest.mark.parametrize("opset", [17, 18, 19])
def test_pyramid_function_opsets(opset: int) -> None:
    rng = np.random.default_rng(10)
    arrays = (make_rois(rng, 1, 6), *make_maps(rng, 1, 1))
    got = run_function(PYRAMID, P_ATTRS, *arrays, opset=opset)[0]
    close(got, oracles.pyramid_roi_align(*arrays, **P_ATTRS))


def single_inputs(seed: int, count: int = 24) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    rois = make_rois(rng, 1, count)[0]
    rois[0] = [-200, -200, -100, -100]  # all samples off the map
    return make_maps(rng, 3, 2)[1], rois, rng.integers(0, 3, count).astype(np.int32)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_single_random(aligned: int, ratio: int) -> None:
    a = {**S_ATTRS, "coordinate_transformation_mode": aligned, "sampling_ratio": ratio}
    arrays = single_inputs(11)
    expected = oracles.roi_align(*arrays, **a)
    close(run_function(SINGLE, a, *arrays)[0], expected)
    close(run_lowered(SINGLE, a, *arrays)[0], expected)


@pytest.mark.parametrize("aligned", [0, 1])
def test_single_maximum(aligned: int) -> None:
    a = {**S_ATTRS, "coordinate_transformation_mode": aligned, "mode": 0}
    arrays = single_inputs(12)
    close(run_function(SINGLE, a, *arrays)[0], oracles.roi_align(*arrays, **a))
    with pytest.raises(PluginError, match="mode=0"):
        SINGLE.lower(a, [x.shape for x in arrays])


@pytest.mark.parametrize("aligned", [0, 1])
def test_single_degenerate(aligned: int) -> None:
    """Not aligned, a side counts as one cell at least; aligned, an empty one makes a NaN."""
    x_map, _, _ = single_inputs(13)
    rois = np.array(
        [[40, 40, 40, 40], [10, 20, 90, 20], [10, 20, 10, 90], [np.nan, 0, 5, 5], [90, 90, 10, 10]],
        np.float32,
    )
    indices = np.array([0, 1, 2, 0, 1], np.int32)
    a = {**S_ATTRS, "coordinate_transformation_mode": aligned}
    expected = oracles.roi_align(x_map, rois, indices, **a)
    assert np.isnan(expected[:3]).all() == bool(aligned)
    close(run_function(SINGLE, a, x_map, rois, indices)[0], expected)
    native = run_lowered(SINGLE, a, x_map, rois, indices)[0]
    assert np.isfinite(native).all()
    usual = [4] if aligned else [0, 1, 2, 4]
    close(native[usual], expected[usual])
    if aligned:
        assert not native[:3].any()


def test_single_masked4_and_fixed2() -> None:
    arrays = single_inputs(14)
    native = {
        option: run_lowered(SINGLE, S_ATTRS, *arrays, roi_sampling=option)[0]
        for option in ("exact", "masked4", "fixed2")
    }
    _, rois, _ = arrays
    bins = (rois[:, 2:] - rois[:, :2]) / 8 / [4, 3]
    few = (bins <= 4).all(axis=1)
    assert 0 < few.sum() < len(few)
    close(native["masked4"][few], native["exact"][few])
    assert np.abs(native["masked4"][~few] - native["exact"][~few]).max() > 0.05
    two = oracles.roi_align(*arrays, **S_ATTRS, sampling_ratio=2)
    close(native["fixed2"], two)


PYRAMID_SHAPES = [(2, 50, 4), *((2, 16, 256 // s, 256 // s) for s in STRIDES)]
SINGLE_SHAPES = [(2, 16, 32, 32), (50, 4), (50,)]


@pytest.mark.parametrize("option", ["exact", "masked4", "fixed2"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensorrt_rtx_builds_the_pyramid(option: str, dtype: str) -> None:
    a = {"pooled_size": 7, "image_size": [256, 256]}
    options = {"roi_sampling": option, "dtype": dtype, "level_rule": "detectron2"}
    assert build_rtx(lowered_model(PYRAMID, a, PYRAMID_SHAPES, **options)) > 0


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("ratio", [0, 2])
def test_tensorrt_rtx_builds_the_single_map(aligned: int, ratio: int) -> None:
    a = {**S_ATTRS, "coordinate_transformation_mode": aligned, "sampling_ratio": ratio}
    assert build_rtx(lowered_model(SINGLE, a, SINGLE_SHAPES)) > 0


@pytest.mark.parametrize(
    ("changes", "shapes", "words"),
    [
        ({"pooled_size": 0}, PYRAMID_SHAPES, ["pooled_size=0", "at least 1"]),
        ({"image_size": [128]}, PYRAMID_SHAPES, ["image_size=[128]", "two positive"]),
        ({"image_size": 128}, PYRAMID_SHAPES, ["image_size=128", "type ints"]),
        ({"fpn_scale": 0}, PYRAMID_SHAPES, ["fpn_scale=0"]),
        ({"sampling_ratio": -1}, PYRAMID_SHAPES, ["sampling_ratio=-1"]),
        ({"roi_coords_transform": -1}, PYRAMID_SHAPES, ["roi_coords_transform=-1"]),
        ({"roi_coords_absolute": 2}, PYRAMID_SHAPES, ["roi_coords_absolute=2", "0 or 1"]),
        ({"legacy": 1}, PYRAMID_SHAPES, ["legacy=1", "not supported"]),
        ({}, PYRAMID_SHAPES[:4], ["4 inputs", "takes 5"]),
        ({}, [(50, 4), *PYRAMID_SHAPES[1:]], ["rois [50, 4]", "[N, R, 4]"]),
        ({}, [*PYRAMID_SHAPES[:4], (2, 8, 8, 8)], ["map_3 [2, 8, 8, 8]", "same C"]),
        ({}, [*PYRAMID_SHAPES[:4], (1, 16, 8, 8)], ["map_3 [1, 16, 8, 8]"]),
    ],
)
def test_pyramid_refusals(
    changes: dict[str, Any], shapes: list[tuple[int, ...]], words: list[str]
) -> None:
    with pytest.raises(PluginError) as caught:
        PYRAMID.validate({**P_ATTRS, **changes}, shapes, node="pool_1")
    for word in ["'pool_1'", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "shapes", "words"),
    [
        ({"output_width": 0}, SINGLE_SHAPES, ["output_width=0"]),
        ({"spatial_scale": 0.0}, SINGLE_SHAPES, ["spatial_scale=0.0", "above 0"]),
        ({"mode": 2}, SINGLE_SHAPES, ["mode=2"]),
        ({"mode": "avg"}, SINGLE_SHAPES, ["mode='avg'", "type int"]),
        ({"coordinate_transformation_mode": 2}, SINGLE_SHAPES, ["0 or 1"]),
        ({"sampling_ratio": -1}, SINGLE_SHAPES, ["0 or more"]),
        ({}, [(16, 32, 32), (50, 4), (50,)], ["X [16, 32, 32]"]),
        ({}, [SINGLE_SHAPES[0], (50, 5), (50,)], ["rois [50, 5]"]),
        ({}, [*SINGLE_SHAPES[:2], (49,)], ["batch_indices [49]", "[50]"]),
    ],
)
def test_single_refusals(
    changes: dict[str, Any], shapes: list[tuple[int, ...]], words: list[str]
) -> None:
    with pytest.raises(PluginError) as caught:
        SINGLE.validate({**S_ATTRS, **changes}, shapes, node="pool_2")
    for word in ["'pool_2'", *words]:
        assert word in str(caught.value)


def test_shapes() -> None:
    assert PYRAMID.infer_shapes(P_ATTRS, PYRAMID_SHAPES) == [(2, 50, 16, 3, 3)]
    assert SINGLE.infer_shapes(S_ATTRS, SINGLE_SHAPES) == [(50, 16, 3, 4)]
