"""ModulatedDeformConv2d: function and native form against the NumPy oracle, and built by TensorRT for RTX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import oracle_deform_conv as oracle
from helpers.plugin_runs import build_rtx, lowered_model, run_function, run_lowered

from onnxgraft.errors import PluginError
from onnxgraft.plugins import REGISTRY

OP = REGISTRY["ModulatedDeformConv2d"]
TOLERANCE = 2e-5
Inputs = tuple[np.ndarray, ...]


def attributes(stride: int = 1, padding: tuple[int, int] = (1, 1), dilation: int = 1, group: int = 1,
               deformable_group: int = 1) -> dict[str, Any]:  # fmt: skip
    """The plugin's attributes; padding is (across, down)."""
    return {"stride": [stride] * 2, "padding": list(padding), "dilation": [dilation] * 2, "group": group,
            "deformable_group": deformable_group}  # fmt: skip


def shapes_of(a: dict[str, Any], batch: int = 1, channels: int = 4, size: tuple[int, int] = (6, 7), outputs: int = 4,
              kernel: tuple[int, int] = (3, 3)) -> list[tuple[int, ...]]:  # fmt: skip
    across, down = a["padding"]
    height, width = (
        (cells + 2 * pad - a["dilation"][0] * (k - 1) - 1) // a["stride"][0] + 1
        for cells, pad, k in zip(size, (down, across), kernel, strict=True)
    )
    taps = a["deformable_group"] * kernel[0] * kernel[1]
    return [(batch, channels, *size), (batch, 2 * taps, height, width), (batch, taps, height, width),
            (outputs, channels // a["group"], *kernel), (outputs,)]  # fmt: skip


def random_inputs(shapes: list[tuple[int, ...]], seed: int = 0, spread: float = 1.5) -> Inputs:
    """Offsets of `spread` cells, masks within 0..1."""
    rng = np.random.default_rng(seed)
    x, offset, mask, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return x, offset * np.float32(spread), 1 / (1 + np.exp(-mask)), weight, bias


def expected(a: dict[str, Any], arrays: Inputs) -> np.ndarray:
    across, down = a["padding"]
    return oracle.deform_conv(*arrays, **{**a, "padding": (down, across)})


def check(a: dict[str, Any], arrays: Inputs, **options: Any) -> np.ndarray:
    wanted = expected(a, arrays)
    for got in (run_function(OP, a, *arrays, opset=19)[0], run_lowered(OP, a, *arrays, **options)[0]):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=TOLERANCE * max(1.0, np.abs(wanted).max()), rtol=0)
    return wanted


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_strides_dilations_batches(stride: int, dilation: int, batch: int) -> None:
    a = attributes(stride, (dilation, dilation), dilation)
    check(a, random_inputs(shapes_of(a, batch), seed=stride + 2 * dilation + 4 * batch))


@pytest.mark.parametrize(("group", "deformable_group"), [(1, 2), (2, 1), (2, 2), (4, 2), (2, 4), (3, 2), (6, 6)])
def test_groups(group: int, deformable_group: int) -> None:
    a = attributes(group=group, deformable_group=deformable_group)
    check(a, random_inputs(shapes_of(a, 2, channels=12, outputs=12, size=(4, 5)), seed=group))


@pytest.mark.parametrize(("kernel", "padding"), [((1, 1), (0, 0)), ((1, 3), (1, 0)), ((3, 1), (0, 1)), ((5, 3), (2, 0)),
                                                 ((2, 2), (3, 2))])  # fmt: skip
def test_kernels_and_paddings(kernel: tuple[int, int], padding: tuple[int, int]) -> None:
    a = attributes(padding=padding)
    check(a, random_inputs(shapes_of(a, kernel=kernel), seed=sum(kernel)))


@pytest.mark.parametrize("taps", [1, 2, 4, 9, 100])
@pytest.mark.parametrize("group", [1, 2])
def test_chunks_of_taps_change_nothing(taps: int, group: int) -> None:
    a = attributes(group=group, deformable_group=2)
    check(a, random_inputs(shapes_of(a, 2, size=(4, 4)), seed=taps), taps=taps)


def test_samples_are_taken_in_chunks_when_they_are_many() -> None:
    a = attributes()
    small, large = shapes_of(a, channels=64, size=(20, 20)), shapes_of(a, channels=256, size=(168, 168))
    for shapes, products in ((small, 1), (large, 3)):
        graph = OP.lower(a, shapes)
        assert sum(node.op_type == "MatMul" for node in graph.node) == products


def test_offsets_of_every_size() -> None:
    """Inside, over the edge, exactly on the first cell outside, far outside, infinite."""
    a = attributes()
    x, offset, mask, weight, bias = random_inputs(shapes_of(a, 2), seed=5)
    values = np.array([0, 0.5, -1, 1, -2, 6, 7, -7, 1e3, -1e3, 1e9, -1e9, 3e38, np.inf, -np.inf], np.float32)
    offset = np.random.default_rng(6).choice(values, offset.shape)
    assert np.isinf(offset).any()
    check(a, (x, offset, mask, weight, bias))


def test_all_samples_off_the_map_leave_the_bias() -> None:
    a = attributes()
    x, offset, mask, weight, bias = random_inputs(shapes_of(a), seed=7)
    wanted = check(a, (x, np.full_like(offset, -50), mask, weight, bias))
    np.testing.assert_array_equal(wanted, np.broadcast_to(bias[None, :, None, None], wanted.shape))


def test_a_map_of_one_cell() -> None:
    a = attributes()
    check(a, random_inputs(shapes_of(a, size=(1, 1)), seed=8, spread=0.5))


def test_no_offsets_and_no_mask_are_a_convolution() -> None:
    a = attributes(stride=2)
    x, offset, mask, weight, bias = random_inputs(shapes_of(a, 2, size=(8, 9)), seed=9)
    wanted = check(a, (x, offset * 0, np.ones_like(mask), weight, bias))
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    plain = np.einsum("nchwij,dcij->ndhw", windows, weight) + bias[None, :, None, None]
    np.testing.assert_allclose(wanted, plain, atol=1e-4)


def test_an_offset_that_is_no_number_reads_zero() -> None:
    a = attributes()
    x, offset, mask, weight, bias = random_inputs(shapes_of(a), seed=10)
    far, lost = offset.copy(), offset.copy()
    far[:, 3], lost[:, 3] = -1e6, np.nan
    np.testing.assert_array_equal(
        run_lowered(OP, a, x, lost, mask, weight, bias)[0], run_lowered(OP, a, x, far, mask, weight, bias)[0]
    )


@pytest.mark.parametrize("group", [1, 4])
def test_half_precision_products_sample_in_full(group: int) -> None:
    """Positions beyond 512 cells are half a cell wrong in fp16: they must not be in it."""
    a = attributes(group=group)
    shapes = shapes_of(a, channels=8, size=(3, 1400))
    x, offset, mask, weight, bias = random_inputs(shapes, seed=11)
    steep = np.broadcast_to(np.arange(1400, dtype=np.float32) % 2, x.shape).copy()  # a cell more is all the difference
    arrays = (steep, offset, mask, weight, bias)
    half = run_lowered(OP, a, *arrays, multiply="fp16")[0]
    full = run_lowered(OP, a, *arrays)[0]
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)
    assert np.abs(half - full).max() > 0


def test_opsets() -> None:
    a = attributes()
    arrays = random_inputs(shapes_of(a), seed=12)
    for opset in (19, 20, 21, 22):
        np.testing.assert_allclose(run_function(OP, a, *arrays, opset=opset)[0], expected(a, arrays), atol=1e-4)
    assert OP.function(17).opset_import[0].version == 19


@pytest.mark.parametrize("multiply", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("group", "deformable_group", "taps"), [(1, 1, 0), (1, 1, 2), (8, 1, 0), (2, 4, 4)])
def test_tensorrt_rtx_builds(multiply: str, group: int, deformable_group: int, taps: int) -> None:
    a = attributes(stride=2, group=group, deformable_group=deformable_group)
    shapes = shapes_of(a, 2, channels=32, size=(24, 20), outputs=64)
    assert build_rtx(lowered_model(OP, a, shapes, multiply=multiply, taps=taps)) > 0


SHAPES = shapes_of(attributes(deformable_group=2), 2)


@pytest.mark.parametrize(
    ("changes", "shapes", "words"),
    [
        ({"stride": [1, 2]}, SHAPES, ["stride=[1, 2]", "twice the same"]),
        ({"stride": [0, 0]}, SHAPES, ["stride=[0, 0]"]),
        ({"dilation": [1, 2]}, SHAPES, ["dilation=[1, 2]", "twice the same"]),
        ({"dilation": 1}, SHAPES, ["dilation=1", "type ints"]),
        ({"padding": [-1, 0]}, SHAPES, ["padding=[-1, 0]", "0 or more"]),
        ({"padding": [1]}, SHAPES, ["padding=[1]", "two numbers"]),
        ({"group": 0}, SHAPES, ["group=0"]),
        ({"group": 2}, SHAPES, ["weight [4, 4, 3, 3]", "2 groups"]),
        ({"deformable_group": 3}, SHAPES, ["4 channels", "deformable_group=3"]),
        ({"deformable_group": 1}, SHAPES, ["offset [2, 36, 6, 7]", "[2, 18, 6, 7]"]),
        ({"padding": [0, 1]}, SHAPES, ["offset [2, 36, 6, 7]", "[2, 36, 6, 5]"]),
        ({}, SHAPES[:4], ["4 inputs", "takes 5"]),
        ({}, [SHAPES[0][1:], *SHAPES[1:]], ["x [4, 6, 7]", "4 dimensions"]),
        ({}, [*SHAPES[:2], (1, 18, 6, 7), *SHAPES[3:]], ["mask [1, 18, 6, 7]"]),
        ({}, [*SHAPES[:4], (3,)], ["bias [3]", "[4]"]),
    ],
)
def test_refusals(changes: dict[str, Any], shapes: list[tuple[int, ...]], words: list[str]) -> None:
    with pytest.raises(PluginError) as caught:
        OP.validate({**attributes(deformable_group=2), **changes}, shapes, node="dconv_1")
    for word in ["'dconv_1'", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("missing", ["stride", "padding", "dilation", "group", "deformable_group"])
def test_the_plugin_requires_every_attribute(missing: str) -> None:
    given = {key: value for key, value in attributes().items() if key != missing}
    with pytest.raises(PluginError, match=f"{missing} is missing"):
        OP.validate(given, SHAPES)


def test_shapes() -> None:
    a = attributes(stride=2)
    assert OP.infer_shapes(a, shapes_of(a, 2, size=(9, 8), outputs=6)) == [(2, 6, 5, 4)]
