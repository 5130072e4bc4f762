"""Histograms, clipping methods and their files, against NumPy oracles."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from onnxgraft.errors import InputError
from onnxgraft.quantization import trt_cache
from onnxgraft.quantization.calibration import Calibration, Key, merge_files
from onnxgraft.quantization.histogram import BINS, QUICKEST, Histogram
from onnxgraft.quantization.methods import METHODS, amax, check

KEY = Key("network", {"canvas": [32, 32]})


def histogram_of(*arrays: np.ndarray) -> Histogram:
    made = Histogram()
    for array in arrays:
        made.add(array)
    return made


def same(a: Histogram, b: Histogram) -> bool:
    return a.to_dict() == b.to_dict()


def samples(seed: int) -> list[np.ndarray]:
    """Arrays whose ranges lie powers of two apart, some of one sign, some with exact zeros."""
    rng = np.random.default_rng(seed)
    arrays = []
    for _ in range(6):
        values = rng.normal(size=rng.integers(1, 70_000)).astype(np.float32) * np.float32(2.0 ** rng.integers(-6, 7))
        arrays.append(np.maximum(values, 0) if rng.random() < 0.5 else values)
    return arrays


@pytest.mark.parametrize("zeros", [0, 15, 60, 99])  # percent; of many of them the counters take turns
def test_counts_are_those_of_numpy(zeros: int) -> None:
    rng = np.random.default_rng(zeros)
    values = rng.normal(size=300_007).astype(np.float32)  # more than are counted at a time
    values[rng.random(values.size) < zeros / 100] = 0
    made = histogram_of(values)
    assert made.exponent is not None
    assert 2.0 ** (made.exponent - 1) <= np.abs(values).max() < 2.0**made.exponent
    edges = np.linspace(0, 2.0**made.exponent, BINS + 1)
    expected, _ = np.histogram(np.abs(values.astype(np.float64)), edges)
    assert np.array_equal(made.counts, expected)
    assert (made.total, made.zeros, made.negatives) == (values.size, int((values == 0).sum()), int((values < 0).sum()))
    assert (made.low, made.high) == (values.min(), values.max())


@pytest.mark.parametrize("seed", range(5))
def test_merging_is_exact_in_any_order_and_split(seed: int) -> None:
    arrays = samples(seed)
    whole = histogram_of(np.concatenate(arrays))
    order = np.random.default_rng(seed).permutation(len(arrays))
    first, second = histogram_of(*(arrays[i] for i in order[:2])), histogram_of(*(arrays[i] for i in order[2:]))
    second.merge(first)
    assert same(second, whole)
    assert same(Histogram.from_dict(json.loads(json.dumps(second.to_dict()))), whole)


def test_a_power_of_two_lies_in_the_next_range() -> None:
    made = histogram_of(np.array([1.0, 0.5], np.float32))
    assert made.exponent == 1
    assert made.counts[BINS // 2] == 1
    assert made.counts[BINS // 4] == 1


def test_not_finite_values_are_counted_apart() -> None:
    made = histogram_of(np.array([np.nan, np.inf, -np.inf, 2.0], np.float32), np.array([np.nan], np.float32))
    assert (made.bad, made.total, made.high) == (4, 1, 2.0)


def test_a_dead_tensor_has_no_range() -> None:
    made = histogram_of(np.zeros((4, 4), np.float32))
    made.merge(histogram_of(np.zeros(3, np.float32)))
    assert (made.exponent, made.total, made.zeros, made.amax) == (None, 19, 19, 0.0)
    assert [amax(made, method) for method in METHODS] == [0.0] * 4
    live = histogram_of(np.array([3.0], np.float32))
    live.merge(made)
    assert (live.total, live.amax) == (20, 3.0)


def test_percentile_is_that_of_numpy_within_a_bin() -> None:
    values = np.abs(samples(3)[0])
    made = histogram_of(values)
    for percentile in (50.0, 99.0, 99.9, 100.0):
        exact = float(np.percentile(values, percentile, method="inverted_cdf"))
        assert exact <= amax(made, "percentile", percentile) <= exact + 1.001 * made.width


def test_mse_finds_the_clipping_point_of_a_search_over_the_values() -> None:
    values = np.abs(np.random.default_rng(1).laplace(size=200_000)).astype(np.float32)

    def error(limit: float) -> float:
        scale = limit / 127
        return float(np.mean((np.minimum(np.rint(values / scale), 127) * scale - values) ** 2))

    found = amax(histogram_of(values), "mse")
    best = min(error(limit) for limit in np.linspace(values.max() / 16, values.max(), 300))
    assert found < values.max()
    assert error(found) <= 1.02 * best


def test_entropy_clips_an_outlier_and_keeps_a_uniform_range() -> None:
    rng = np.random.default_rng(2)
    uniform = rng.uniform(0, 1, 100_000).astype(np.float32)
    assert amax(histogram_of(uniform), "entropy") > 0.98
    bulk = np.abs(rng.normal(size=100_000)).astype(np.float32)
    assert amax(histogram_of(bulk, np.array([100.0], np.float32)), "entropy") < 12
    assert amax(histogram_of(bulk, np.array([100.0], np.float32)), "minmax") == 100.0


def test_exact_zeros_do_not_move_the_entropy_method() -> None:
    bulk = np.abs(np.random.default_rng(4).normal(size=50_000)).astype(np.float32)
    zeros = np.zeros(500_000, np.float32)
    assert amax(histogram_of(bulk), "entropy") == amax(histogram_of(bulk, zeros), "entropy")


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(InputError, match="'kl' is not one of entropy"):
        check("kl")
    with pytest.raises(InputError, match="percentile 0 "):
        check("percentile", 0)


def test_a_tensorrt_cache_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "calibration.cache"
    trt_cache.write({"a": 127.0, "b: c": 1.0}, path)
    assert path.read_text() == "TRT-8501-EntropyCalibration2\na: 3f800000\nb: c: " + struct.pack(">f", 1 / 127).hex() + "\n"
    assert trt_cache.is_cache(path)
    assert trt_cache.read(path) == pytest.approx({"a": 127.0, "b: c": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a TensorRT calibration cache"),
        ("TRT-8501-EntropyCalibration2\n", "holds no tensor"),
        ("TRT-8501-EntropyCalibration2\na: 3f80", "line 2 is damaged"),
        ("TRT-8501-EntropyCalibration2\na: 7fc00000\n", "the scale of 'a' is nan"),
        ("onnx\na: 3f800000\n", "not a TensorRT calibration cache"),
    ],
)
def test_damaged_tensorrt_caches_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "calibration.cache"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        trt_cache.read(path)


def calibration(numbers: list[int], key: Key = KEY) -> Calibration:
    arrays = samples(9)
    return Calibration(key, [(f"{i}.png", f"d{i}") for i in numbers], [], {"t": histogram_of(*(arrays[i] for i in numbers))})


def test_shards_merge_into_the_bytes_of_one_run(tmp_path: Path) -> None:
    calibration([0, 1, 2, 3, 4, 5]).save(tmp_path / "whole.json")
    parts = []
    for name, numbers in (("a", [4, 1]), ("b", [5, 2]), ("c", [3, 0])):
        calibration(numbers).save(tmp_path / f"{name}.json")
        parts.append(tmp_path / f"{name}.json")
    merge_files(parts, tmp_path / "merged.json")
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_quickly_written_file_is_read_as_the_same(tmp_path: Path) -> None:
    calibration([0, 1]).save(tmp_path / "small.json")
    calibration([0, 1]).save(tmp_path / "quick.json", QUICKEST)
    assert (tmp_path / "quick.json").stat().st_size > (tmp_path / "small.json").stat().st_size
    Calibration.load(tmp_path / "quick.json").save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "small.json").read_bytes()


def test_what_cannot_be_merged_says_why() -> None:
    with pytest.raises(InputError, match=r"both have seen '1\.png'"):
        calibration([0, 1]).merge(calibration([1, 2]))
    with pytest.raises(InputError, match="made for another network"):
        calibration([0]).merge(calibration([1], Key("other", KEY.preprocess)))
    with pytest.raises(InputError, match=r"made with canvas \[64, 64\], this build has \[32, 32\]"):
        calibration([0]).merge(calibration([1], Key("network", {"canvas": [64, 64]})))


def test_damaged_calibrations_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration([0]).save(path)
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match="truncated"):
        Calibration.load(path)
    path.write_text(text.replace('"total": ', '"total": 1'))
    with pytest.raises(InputError, match="do not add up"):
        Calibration.load(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="no calibration of this version"):
        Calibration.load(path)
    with pytest.raises(InputError, match="no such file"):
        Calibration.load(tmp_path / "absent.json")
