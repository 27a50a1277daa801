"""CUDA without a GPU: errors say what is missing."""

from __future__ import annotations

import pytest

from tests.support.gpu import missing_gpu
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError

pytest.importorskip("cuda.bindings.driver")

from cuda.bindings import driver

from vision_infer.engine.gpu import cuda
from vision_infer.engine.gpu.cuda import cuda_device

without_gpu = pytest.mark.skipif(not missing_gpu(), reason="there is a GPU here")


@without_gpu
def test_an_error_says_what_is_missing() -> None:
    with pytest.raises(EngineError, match="NVIDIA driver") as caught:
        cuda_device(0)
    assert "--device cpu" in caught.value.hint


def test_missing_memory_has_its_own_error() -> None:
    with pytest.raises(DeviceMemoryError, match=r"^CUDA: out of memory \(error 2\)"):
        cuda._done((driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None))
    assert cuda._done((driver.CUresult.CUDA_SUCCESS, 1, 2)) == (1, 2)
    assert cuda._done((driver.CUresult.CUDA_SUCCESS,)) is None


@pytest.mark.parametrize("status", [46, 100, 101, 214, 700, 702, 715, 718, 719])
def test_errors_that_no_later_call_survives_have_their_own_error(status: int) -> None:
    with pytest.raises(DeviceLostError, match=rf"error {status}\)") as caught:
        cuda._done((driver.CUresult(status),))
    assert caught.value.device_lost
    assert not EngineError("it failed").device_lost
