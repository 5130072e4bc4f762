"""Timing an engine: the CUDA runtime has every function that is called, and an error of it is one line."""

from __future__ import annotations

import pytest
from polygraphy import cuda as polygraphy_cuda

from onnxgraft.errors import TargetError
from onnxgraft.targets.trt import timing
from onnxgraft.targets.trt.devices import no_gpu


@pytest.fixture
def runtime() -> timing._Cuda:
    try:
        polygraphy_cuda.wrapper()
        return timing._Cuda()
    except Exception as error:  # polygraphy and ctypes each raise their own kinds
        pytest.skip(f"no CUDA runtime can be loaded here: {str(error).splitlines()[0][:100]}")


def test_the_runtime_has_what_is_called(runtime: timing._Cuda) -> None:
    assert all(hasattr(runtime._library, name) for name in (*timing.CUDA, "cudaGetLastError"))


@pytest.mark.skipif(no_gpu() is None, reason="a GPU answers here")
def test_without_a_gpu_it_is_an_error_of_one_line(runtime: timing._Cuda) -> None:
    with pytest.raises(TargetError, match="cudaEventCreate failed: "):
        runtime.new("cudaEventCreate")
