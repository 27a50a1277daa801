"""CUDA's driver API, through cuda-bindings: memory, streams, events, graphs and kernels, for any runtime of models.

Everything is in the device's primary context, which ONNX Runtime, TensorRT, PyTorch and FFmpeg share.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import DeviceLostError, EngineError
from vision_infer.core.geometry import Letterbox, Size
from vision_infer.core.image import Surface
from vision_infer.engine.gpu.accelerator import DeviceMemoryError, NoGpuError
from vision_infer.engine.gpu.surface_kernel import (
    BLOCK,
    KERNELS,
    MAX_TASKS,
    Task,
    compiled,
    grid,
    luma_task,
    rgb_task,
    table,
    yuv420_task,
)

try:
    from cuda.bindings import driver
except ImportError as _error:
    raise EngineError("the package cuda-bindings is not installed", "Run: pip install '.[gpu]', or use --device cpu.") from _error

_log = logging.getLogger("vision_infer.cuda")

_LEGACY_STREAM = driver.CUstream(driver.CU_STREAM_LEGACY)
"""The stream of FFmpeg's decoder."""
_CONTEXT_FLAGS = int(driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC)
"""The flags of the primary context. Threads that wait for the GPU sleep: the cores are needed for decoding. FFmpeg's decoder
accepts a primary context with exactly these flags (libavutil/hwcontext_cuda.c)."""
_DRIVER_HINT = "See 'nvidia-smi', or use --device cpu."
_START_HINTS = {
    34: "Remove the folder with CUDA's stub libraries from LD_LIBRARY_PATH.",
    100: "In a container, use --gpus all. Otherwise see 'nvidia-smi', or use --device cpu.",
    802: "Start the service nvidia-fabricmanager.",
    803: "Restart the machine after an upgrade of the driver.",
}
"""What to do if CUDA does not start, by status."""
_BROKEN = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})
"""The statuses after which every call of this process fails, as the documentation of CUresult says."""
_GONE = frozenset({46, 100, 101})
"""The statuses of a GPU that worked before and is no longer there."""
_UNKNOWN = 999

_devices: dict[int, CudaDevice] = {}
# Guards _devices. Held by cuda_device() in threads that open engines, also while a context is created.
_devices_lock = threading.Lock()


def cuda_device(index: int) -> CudaDevice:
    """Return a GPU and make it the device of the calling thread. There is one object for each GPU.

    Args:
        index: The number of the GPU as CUDA counts them (after ``CUDA_VISIBLE_DEVICES``).

    Raises:
        DeviceMemoryError: The GPU has no memory for a context.
        EngineError: There is no driver, it is too old, or there is no GPU with this number.
    """
    with _devices_lock:
        device = _devices.get(index)
        if device is None:
            device = _devices[index] = CudaDevice(index)
    device.use()
    return device


class CudaDevice:
    """A GPU with its primary context, which is kept until the process ends; use :func:`cuda_device` to get it."""

    def __init__(self, index: int) -> None:
        count = device_count()
        if index >= count:
            raise EngineError(f"cuda:{index} does not exist: CUDA finds {count} GPUs", "Use --device cuda:0, or cpu.")
        self.index = index
        self.name = f"cuda:{index}"
        self.title, self.compute_capability = device_kind(index)
        """The name of the GPU, such as ``NVIDIA L4``, and its compute capability, such as ``sm_89``."""
        self._kernels: dict[str, Any] = {}
        self._problem: str | None = None
        # Guards _kernels, _problem and the use of _decoded. Held by the threads that read decoded frames, for queueing only, and
        # in surface_problem() by the first one that opens an engine, which compiles the kernels.
        self._lock = threading.Lock()
        self._device = _done(driver.cuDeviceGet(index))
        self._context = self._retain_context()
        self.use()
        self._decoded = self.make_event(timed=False)

    def _retain_context(self) -> Any:
        """Create the primary context, or take the one that another library created."""
        refused = int(driver.cuDevicePrimaryCtxSetFlags(self._device, _CONTEXT_FLAGS)[0])
        status, context = driver.cuDevicePrimaryCtxRetain(self._device)
        if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            hint = "Close other programs on it (see 'nvidia-smi'), or use another."
            raise DeviceMemoryError(f"{self.name} has no memory for a CUDA context", hint)
        if status:
            exclusive = status == driver.CUresult.CUDA_ERROR_DEVICE_UNAVAILABLE
            hint = "Another process may use it exclusively: see 'nvidia-smi'." if exclusive else _DRIVER_HINT
            raise EngineError(f"{self.name} cannot be used: {_text(status)}", hint)
        flags, active = _done(driver.cuDevicePrimaryCtxGetState(self._device))
        _log.debug("%s: primary context: flags %d, active %d, setting the flags returned %d", self.name, flags, active, refused)
        if int(flags) != _CONTEXT_FLAGS:
            _log.warning(
                "%s: another library created the CUDA context with flags %d instead of %d. FFmpeg refuses it, so video is not "
                "decoded on this GPU.",
                *(self.name, flags, _CONTEXT_FLAGS),
            )
        return context

    def use(self) -> None:
        """Make it the device of the calling thread."""
        _done(driver.cuCtxSetCurrent(self._context))

    def memory(self) -> tuple[int, int]:
        """Return the free and the total memory, bytes."""
        free, whole = _done(driver.cuMemGetInfo())
        return int(free), int(whole)

    def allocate(self, nbytes: int) -> int:
        """Allocate zeroed memory on the device."""
        address = int(_done(driver.cuMemAlloc(nbytes)))
        _done(driver.cuMemsetD8Async(address, 0, nbytes, _LEGACY_STREAM))
        _done(driver.cuStreamSynchronize(_LEGACY_STREAM))  # the engine's streams do not wait for the legacy stream
        return address

    def free(self, address: int) -> None:
        """Free memory of the device."""
        _done(driver.cuMemFree(address))

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate zeroed, page-locked host memory."""
        address = int(_done(driver.cuMemHostAlloc(nbytes, 0)))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        array[:] = 0
        return array

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked host memory."""
        _done(driver.cuMemFreeHost(array.ctypes.data))

    def make_stream(self) -> Any:
        """Create a stream that is not synchronized with the legacy stream."""
        return _done(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def make_event(self, timed: bool = True) -> Any:
        """Create an event; threads that wait for it sleep."""
        flags = driver.CUevent_flags
        return _done(driver.cuEventCreate(flags.CU_EVENT_BLOCKING_SYNC | (0 if timed else flags.CU_EVENT_DISABLE_TIMING)))

    def record(self, event: Any, stream: Any) -> None:
        """Record the event in the stream."""
        _done(driver.cuEventRecord(event, stream))

    def wait(self, stream: Any, event: Any) -> None:
        """Let later work of the stream begin after the event."""
        _done(driver.cuStreamWaitEvent(stream, event, 0))

    def synchronize(self, event: Any) -> None:
        """Block the calling thread until the event."""
        _done(driver.cuEventSynchronize(event))

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Return the time between two events, milliseconds."""
        return float(_done(driver.cuEventElapsedTime(first, second)))

    def copy_in(self, address: int, source: NDArray[Any], stream: Any) -> None:
        """Copy from the host to the device."""
        _done(driver.cuMemcpyHtoDAsync(address, source.ctypes.data, source.nbytes, stream))

    def copy_out(self, target: NDArray[Any], address: int, stream: Any) -> None:
        """Copy from the device to the host."""
        _done(driver.cuMemcpyDtoHAsync(target.ctypes.data, address, target.nbytes, stream))

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Record what ``work`` queues; other threads continue their work meanwhile."""
        _done(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            work()
        except BaseException:
            _, unfinished = driver.cuStreamEndCapture(stream)
            if unfinished is not None and int(unfinished):
                driver.cuGraphDestroy(unfinished)
            raise
        graph = _done(driver.cuStreamEndCapture(stream))
        try:
            return _done(driver.cuGraphInstantiate(graph, 0))
        finally:
            _done(driver.cuGraphDestroy(graph))

    def launch(self, graph: Any, stream: Any) -> None:
        """Run recorded work."""
        _done(driver.cuGraphLaunch(graph, stream))

    def surface_problem(self) -> str:
        """Return why the kernels that read decoded frames cannot be used; empty if they can. The first call compiles them."""
        if self._problem is None:
            with self._lock:
                self._problem = self._load_kernels()
        return self._problem

    def write_surfaces(self, writes: Sequence[tuple[int, Surface, Letterbox]], stream: Any) -> None:
        """Convert NV12 or P010 to letterboxed RGB with one kernel for all of them."""
        self._run("write_rgb", [rgb_task(*write) for write in writes], stream)

    def write_yuv420(self, address: int, surface: Surface, size: Size, stream: Any) -> None:
        """Resize NV12 or P010 to planes of 8 bits with one kernel."""
        self._run("write_yuv420", [yuv420_task(address, surface, size)], stream)

    def write_luma(self, address: int, surface: Surface, step: int, stream: Any) -> None:
        """Sample NV12 or P010 with one kernel."""
        self._run("write_luma", [luma_task(address, surface, step)], stream)

    def _load_kernels(self) -> str:
        if not self._kernels:
            try:
                module = _done(driver.cuModuleLoadData(compiled(self.compute_capability)))
                self._kernels = {name: _done(driver.cuModuleGetFunction(module, name.encode())) for name in KERNELS}
            except EngineError as error:
                if error.device_lost:
                    raise
                return error.message
        return ""

    def _run(self, kernel: str, tasks: Sequence[Task], stream: Any) -> None:
        problem = self.surface_problem()
        if problem:
            raise EngineError(problem)
        with self._lock:  # the kernel has to run after the decoder's pending work; the event is shared by all threads
            self.record(self._decoded, _LEGACY_STREAM)
            self.wait(stream, self._decoded)
        for first in range(0, len(tasks), MAX_TASKS):
            some = tasks[first : first + MAX_TASKS]
            argument = table(some)
            pointers = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
            function, at = self._kernels[kernel], ctypes.addressof(pointers)
            _done(driver.cuLaunchKernel(function, *grid(some), *BLOCK, 1, 0, stream, at, 0))

    def destroy(self, *things: Any) -> None:
        """Destroy streams after their pending work, events and graphs."""
        for thing in things:
            if isinstance(thing, driver.CUstream):
                _done(driver.cuStreamSynchronize(thing))
                _done(driver.cuStreamDestroy(thing))
            elif isinstance(thing, driver.CUevent):
                _done(driver.cuEventDestroy(thing))
            else:
                _done(driver.cuGraphExecDestroy(thing))


def device_count() -> int:
    """Return the number of GPUs that CUDA reports.

    Raises:
        NoGpuError: There is no driver or no GPU.
        EngineError: The driver is too old or does not work.
    """
    try:
        status = driver.cuInit(0)[0]
        version = int(_done(driver.cuDriverGetVersion()))
    except RuntimeError as error:  # the bindings do not find the driver's library
        raise NoGpuError("there is no NVIDIA driver (libcuda.so.1)", "Install it, or use --device cpu.") from error
    need = driver.CUDA_VERSION // 1000
    if version // 1000 < need:
        raise EngineError(
            f"the NVIDIA driver is too old: it supports CUDA {version // 1000}.{version % 1000 // 10}, and CUDA {need} is needed",
            "Update the driver (580 or newer for CUDA 13), or use --device cpu.",
        )
    if int(status) != 0:
        hidden = int(status) == 100 and os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES={hidden} selects no GPU" if hidden else _text(status)
        kind = NoGpuError if int(status) == 100 else EngineError
        raise kind(f"CUDA cannot be started: {why}", _START_HINTS.get(int(status), _DRIVER_HINT))
    return int(_done(driver.cuDeviceGetCount()))


def device_uuid(index: int) -> str:
    """Return the UUID of a GPU, or of a MIG instance, as NVML writes it after ``GPU-`` or ``MIG-``."""
    return str(UUID(bytes=bytes(_done(driver.cuDeviceGetUuid(_done(driver.cuDeviceGet(index)))).bytes)))


def device_kind(index: int) -> tuple[str, str]:
    """Return the name and the compute capability of a GPU, without a context: ``NVIDIA L4``, ``sm_89``.

    Raises:
        EngineError: There is no driver, or no GPU with this number.
    """
    _done(driver.cuInit(0))
    device = _done(driver.cuDeviceGet(index))
    name = _done(driver.cuDeviceGetName(256, device)).split(b"\0")[0].decode(errors="replace")
    parts = (f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}" for part in ("MAJOR", "MINOR"))
    major, minor = (_done(driver.cuDeviceGetAttribute(getattr(driver.CUdevice_attribute, part), device)) for part in parts)
    return name, f"sm_{major}{minor}"


def _done(result: tuple[Any, ...]) -> Any:
    """Return the values of a CUDA call.

    Raises:
        DeviceMemoryError: There is not enough memory.
        DeviceLostError: No later call of this process can succeed.
        EngineError: The call failed.
    """
    status, *values = result
    if status:
        number = int(status)
        if number == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceMemoryError(f"CUDA: {_text(status)}")
        # After an unknown error the context may work or not: ask with a call that changes nothing.
        if number in _BROKEN or (number == _UNKNOWN and int(driver.cuMemGetInfo()[0]) != 0):
            raise DeviceLostError(f"CUDA: {_text(status)}; this process cannot use the GPU any longer")
        if number in _GONE:
            raise DeviceLostError(f"the GPU is no longer available ({_text(status)})", "See 'nvidia-smi' and dmesg.")
        raise EngineError(f"CUDA: {_text(status)}", _DRIVER_HINT)
    return None if not values else values[0] if len(values) == 1 else tuple(values)


def _text(status: Any) -> str:
    """Return a status in words, such as ``illegal address (error 700)``."""
    return f"{status.name.removeprefix('CUDA_ERROR_').replace('_', ' ').lower()} (error {int(status)})"
