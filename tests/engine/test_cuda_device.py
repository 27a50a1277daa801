"""CUDA without a GPU: calls of the bindings have the right types, and errors say what is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.engine.surfaces import make_surface
from tests.support.gpu import missing_gpu, needs_gpu
from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Size, letterbox
from vision_infer.engine.gpu.accelerator import DeviceMemoryError

pytest.importorskip("cuda.bindings.runtime")

from cuda.bindings import driver, runtime

from vision_infer.engine.gpu import cuda
from vision_infer.engine.gpu.cuda import CudaDevice

without_gpu = pytest.mark.skipif(not missing_gpu(), reason="there is a GPU here")


@pytest.fixture
def device() -> CudaDevice:
    """A device that does not exist, without its constructor."""
    made: CudaDevice = CudaDevice.__new__(CudaDevice)
    made.index, made.name = 0, "cuda:0"
    return made


def capture_that_fails(device: CudaDevice) -> None:
    device.capture(runtime.cudaStream_t(0), lambda: None)


CALLS: list[Callable[[CudaDevice], Any]] = [
    lambda device: device.use(),
    lambda device: device.memory(),
    lambda device: device.compute_capability,
    lambda device: device.title,
    lambda device: device.allocate(1000),
    lambda device: device.free(4096),
    lambda device: device.allocate_host(1000),
    lambda device: device.free_host(np.zeros(10, np.uint8)),
    lambda device: device.make_stream(),
    lambda device: device.make_event(),
    lambda device: device.record(runtime.cudaEvent_t(0), runtime.cudaStream_t(0)),
    lambda device: device.wait(runtime.cudaStream_t(0), runtime.cudaEvent_t(0)),
    lambda device: device.synchronize(runtime.cudaEvent_t(0)),
    lambda device: device.elapsed_ms(runtime.cudaEvent_t(0), runtime.cudaEvent_t(0)),
    lambda device: device.copy_in(4096, np.zeros(10, np.uint8), runtime.cudaStream_t(0)),
    lambda device: device.copy_out(np.zeros(10, np.uint8), 4096, runtime.cudaStream_t(0)),
    capture_that_fails,
    lambda device: device.launch(runtime.cudaGraphExec_t(0), runtime.cudaStream_t(0)),
    lambda device: device.destroy(runtime.cudaStream_t(0)),
    lambda device: device.destroy(runtime.cudaEvent_t(0)),
]


@without_gpu
@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_the_bindings_accept_our_arguments(device: CudaDevice, call: Callable[[CudaDevice], Any]) -> None:
    """The call fails because there is no driver, not because of a wrong type, and with our message."""
    with pytest.raises(EngineError, match=r"^CUDA: [^\n]+$"):
        call(device)


@without_gpu
def test_the_bindings_accept_the_arguments_of_the_kernel(device: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaDevice, "_kernel", lambda *_: driver.CUfunction(0))
    monkeypatch.setattr(CudaDevice, "record", lambda *_: None)
    monkeypatch.setattr(CudaDevice, "wait", lambda *_: None)
    device._lock = threading.Lock()
    device._decoded = None
    surface = make_surface(np.zeros((4, 4), np.uint8), np.zeros((2, 2, 2), np.uint8))
    with pytest.raises((EngineError, RuntimeError), match="driver"):
        device.write_surface(4096, surface, letterbox(Size(4, 4), Size(8, 8), "center", (0, 0, 0)), runtime.cudaStream_t(0))


@without_gpu
def test_an_error_says_what_is_missing() -> None:
    with pytest.raises(EngineError, match="NVIDIA driver") as caught:
        CudaDevice(0)
    assert "--device cpu" in caught.value.hint


def test_missing_memory_has_its_own_error() -> None:
    for status in (runtime.cudaError_t.cudaErrorMemoryAllocation, driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY):
        with pytest.raises(DeviceMemoryError):
            cuda._done((status, None))
    assert cuda._done((runtime.cudaError_t.cudaSuccess, 1, 2)) == (1, 2)
    assert cuda._done((runtime.cudaError_t.cudaSuccess,)) is None


@pytest.mark.gpu
@needs_gpu
def test_copies_events_and_graphs_on_a_gpu() -> None:
    device = CudaDevice(0)
    with pytest.raises(EngineError, match="cuda:99 does not exist"):
        CudaDevice(99)
    free, whole = device.memory()
    assert 0 < free <= whole
    with pytest.raises(DeviceMemoryError):
        device.allocate(whole * 2)
    stream, first, last = device.make_stream(), device.make_event(), device.make_event()
    address, back = device.allocate(1 << 20), device.allocate_host(1 << 20)
    out = device.allocate_host(1 << 20)
    back[:] = 7

    def there_and_back() -> None:
        device.copy_in(address, back, stream)
        device.copy_out(out, address, stream)

    graph = device.capture(stream, there_and_back)
    assert not out.any()
    device.record(first, stream)
    device.launch(graph, stream)
    device.record(last, stream)
    device.synchronize(last)
    assert (out == 7).all()
    assert device.elapsed_ms(first, last) > 0
    with pytest.raises(ZeroDivisionError):
        device.capture(stream, lambda: 1 // 0)  # type: ignore[arg-type]
    device.launch(graph, stream)
    device.destroy(graph, stream, first, last)
    device.free(address)
    device.free_host(back)
    device.free_host(out)
