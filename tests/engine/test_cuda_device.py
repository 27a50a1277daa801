"""CUDA without a GPU: errors say what is missing."""

from __future__ import annotations

import re
import sys
import threading

import pytest

from tests.engine.host_device import HostDevice, HostEvent
from tests.support.gpu import missing_cuda
from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError

pytest.importorskip("cuda.bindings.driver")

from cuda import bindings as cuda_bindings
from cuda.bindings import driver

from vision_infer.engine.gpu import cuda, surface_kernel, surface_reader
from vision_infer.engine.gpu.cuda import CudaDevice, cuda_device

without_gpu = pytest.mark.skipif(not missing_cuda(), reason="there is a GPU here")


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


@pytest.fixture
def device() -> CudaDevice:
    """A device that does not exist, without its constructor."""
    made: CudaDevice = CudaDevice.__new__(CudaDevice)
    made.index, made.name, made._kernels, made._problem, made._lock = 0, "cuda:0", {}, None, threading.Lock()
    made.compute_capability = "sm_89"
    surface_kernel.compiled.cache_clear()
    return made


@pytest.mark.parametrize("missing", [True, False])
def test_kernels_that_cannot_be_compiled_are_a_problem_of_the_device_and_no_error(
    device: CudaDevice, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    tried: list[str] = []
    if missing:
        monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
        monkeypatch.delattr(cuda_bindings, "nvrtc", raising=False)
    else:
        monkeypatch.setattr(surface_kernel, "SOURCE", "this is not C")
    real = surface_kernel.compiled

    def compiled(architecture: str) -> bytes:
        tried.append(architecture)
        return real(architecture)

    monkeypatch.setattr(cuda, "compiled", compiled)
    for _ in range(3):
        problem = device.surface_problem()
        assert problem.startswith("NVRTC is not installed" if missing else "the kernels cannot be compiled for sm_89")
    with pytest.raises(EngineError, match=re.escape(problem)):
        device.write_surfaces([], None)
    assert tried == ["sm_89"]


def test_a_device_without_kernels_has_no_reader_and_the_log_says_so_once(
    device: CudaDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device._problem = "NVRTC is not installed"
    monkeypatch.setattr(cuda, "cuda_device", lambda _: device)
    monkeypatch.setattr(surface_reader, "_readers", {})
    monkeypatch.setattr(surface_reader, "_logged", set())
    assert [surface_reader.surface_reader(0) for _ in range(3)] == [None] * 3
    assert caplog.messages == ["cuda:0: decoded frames are copied to host memory as a whole: NVRTC is not installed"]


def test_a_gpu_that_was_full_for_a_while_gets_its_reader_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpu, full = HostDevice(), True

    def make_event(timed: bool = True) -> HostEvent:
        if full and gpu.things > 4:
            raise DeviceMemoryError("CUDA: out of memory (error 2)")
        return HostDevice.make_event(gpu, timed)

    monkeypatch.setattr(gpu, "make_event", make_event)
    monkeypatch.setattr(cuda, "cuda_device", lambda _: gpu)
    monkeypatch.setattr(surface_reader, "_readers", {})
    monkeypatch.setattr(surface_reader, "_logged", set())
    assert [surface_reader.surface_reader(0) for _ in range(3)] == [None] * 3
    assert gpu.things == 0, "what was made before the failure is destroyed"
    full = False
    reader = surface_reader.surface_reader(0)
    assert reader is not None
    assert surface_reader.surface_reader(0) is reader
    (line,) = caplog.messages
    assert line.endswith("as a whole: CUDA: out of memory (error 2)")
