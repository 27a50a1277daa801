"""CUDA, through cuda-bindings: memory, streams, events, graphs and one kernel, for any runtime that computes the model.

Everything is in the device's primary context, which ONNX Runtime, TensorRT, PyTorch and FFmpeg share.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
from vision_infer.core.geometry import Letterbox
from vision_infer.core.image import Surface
from vision_infer.engine.gpu.accelerator import DeviceMemoryError

try:
    from cuda.bindings import driver, runtime
except ImportError as _error:
    raise EngineError(
        "the package cuda-bindings is not installed", "Run: pip install '.[tensorrt]' (or [tensorrt-rtx])"
    ) from _error

_LEGACY_STREAM = runtime.cudaStream_t(runtime.cudaStreamLegacy)
"""The stream of FFmpeg's decoder."""


class CudaDevice:
    """A GPU, by its number as CUDA counts them (after ``CUDA_VISIBLE_DEVICES``).

    Raises:
        EngineError: There is no driver, or no GPU with this number.
    """

    def __init__(self, index: int) -> None:
        count = device_count()
        if index >= count:
            raise EngineError(f"cuda:{index} does not exist: this machine has {count} GPUs", "Use --device cuda:0, or cpu.")
        self.index = index
        self.name = f"cuda:{index}"
        self._kernels: dict[int, Any] = {}
        # Guards _kernels and the use of _decoded. Held in write_surface() by the threads that write frames into slots,
        # for queueing only; the first one also compiles the kernels.
        self._lock = threading.Lock()
        self.use()
        # Threads that wait for the GPU sleep: the cores are needed for decoding. FFmpeg requests the same flag, and refuses a
        # primary context without it (libavutil/hwcontext_cuda.c).
        _done(runtime.cudaSetDeviceFlags(runtime.cudaDeviceScheduleBlockingSync))
        _done(runtime.cudaFree(0))  # creates the context
        self._decoded = self.make_event()

    @property
    def compute_capability(self) -> str:
        """The compute capability, such as ``sm_89``."""
        kinds = runtime.cudaDeviceAttr
        major, minor = (
            _done(runtime.cudaDeviceGetAttribute(kind, self.index))
            for kind in (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
        )
        return f"sm_{major}{minor}"

    @property
    def title(self) -> str:
        """The name of the GPU, such as ``NVIDIA L4``."""
        return str(_done(runtime.cudaGetDeviceProperties(self.index)).name.split(b"\0")[0].decode())

    def use(self) -> None:
        """Make it the device of the calling thread."""
        _done(runtime.cudaSetDevice(self.index))

    def memory(self) -> tuple[int, int]:
        """Return the free and the total memory, bytes."""
        free, whole = _done(runtime.cudaMemGetInfo())
        return int(free), int(whole)

    def allocate(self, nbytes: int) -> int:
        """Allocate zeroed memory on the device."""
        address = int(_done(runtime.cudaMalloc(nbytes)))
        _done(runtime.cudaMemset(address, 0, nbytes))
        _done(runtime.cudaStreamSynchronize(_LEGACY_STREAM))  # the engine's streams do not wait for the legacy stream
        return address

    def free(self, address: int) -> None:
        """Free memory of the device."""
        _done(runtime.cudaFree(address))

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Allocate zeroed, page-locked host memory."""
        address = int(_done(runtime.cudaHostAlloc(nbytes, runtime.cudaHostAllocDefault)))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        array[:] = 0
        return array

    def free_host(self, array: NDArray[np.uint8]) -> None:
        """Free page-locked host memory."""
        _done(runtime.cudaFreeHost(array.ctypes.data))

    def make_stream(self) -> Any:
        """Create a stream that is not synchronized with the legacy stream."""
        return _done(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))

    def make_event(self) -> Any:
        """Create an event with a time; threads that wait for it sleep."""
        return _done(runtime.cudaEventCreateWithFlags(runtime.cudaEventBlockingSync))

    def record(self, event: Any, stream: Any) -> None:
        """Record the event in the stream."""
        _done(runtime.cudaEventRecord(event, stream))

    def wait(self, stream: Any, event: Any) -> None:
        """Let later work of the stream begin after the event."""
        _done(runtime.cudaStreamWaitEvent(stream, event, 0))

    def synchronize(self, event: Any) -> None:
        """Block the calling thread until the event."""
        _done(runtime.cudaEventSynchronize(event))

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Return the time between two events, milliseconds."""
        return float(_done(runtime.cudaEventElapsedTime(first, second)))

    def copy_in(self, address: int, source: NDArray[Any], stream: Any) -> None:
        """Copy from the host to the device."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _done(runtime.cudaMemcpyAsync(address, source.ctypes.data, source.nbytes, kind, stream))

    def copy_out(self, target: NDArray[Any], address: int, stream: Any) -> None:
        """Copy from the device to the host."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _done(runtime.cudaMemcpyAsync(target.ctypes.data, address, target.nbytes, kind, stream))

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Record what ``work`` queues; other threads continue their work meanwhile."""
        _done(runtime.cudaStreamBeginCapture(stream, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        try:
            work()
        except BaseException:
            _, unfinished = runtime.cudaStreamEndCapture(stream)
            if unfinished is not None and int(unfinished):
                runtime.cudaGraphDestroy(unfinished)
            runtime.cudaGetLastError()  # clears the error of the interrupted capture; the exception reports it
            raise
        graph = _done(runtime.cudaStreamEndCapture(stream))
        try:
            return _done(runtime.cudaGraphInstantiate(graph, 0))
        finally:
            _done(runtime.cudaGraphDestroy(graph))

    def launch(self, graph: Any, stream: Any) -> None:
        """Run recorded work."""
        _done(runtime.cudaGraphLaunch(graph, stream))

    def write_surface(self, address: int, surface: Surface, letterbox: Letterbox, stream: Any) -> None:
        """Convert NV12 or P010 to letterboxed RGB with one kernel."""
        from vision_infer.engine.gpu.surface_kernel import BLOCK, arguments, grid

        kernel = self._kernel(surface.sample_bytes)
        with self._lock:  # the kernel has to run after the decoder's pending work; the event is shared by all threads
            self.record(self._decoded, _LEGACY_STREAM)
            self.wait(stream, self._decoded)
        values, kinds = arguments(address, surface, letterbox)
        blocks = grid(letterbox)
        _done(driver.cuLaunchKernel(kernel, *blocks, 1, *BLOCK, 1, 0, driver.CUstream(int(stream)), (values, kinds), 0))

    def destroy(self, *things: Any) -> None:
        """Destroy streams after their pending work, events and graphs."""
        for thing in things:
            if isinstance(thing, runtime.cudaStream_t):
                _done(runtime.cudaStreamSynchronize(thing))
                _done(runtime.cudaStreamDestroy(thing))
            elif isinstance(thing, runtime.cudaEvent_t):
                _done(runtime.cudaEventDestroy(thing))
            else:
                _done(runtime.cudaGraphExecDestroy(thing))

    def _kernel(self, sample_bytes: int) -> Any:
        with self._lock:
            if sample_bytes not in self._kernels:
                from vision_infer.engine.gpu.surface_kernel import KERNELS, compiled

                module = _done(driver.cuModuleLoadData(compiled(self.compute_capability)))
                for size, name in KERNELS.items():
                    self._kernels[size] = _done(driver.cuModuleGetFunction(module, name.encode()))
            return self._kernels[sample_bytes]


def device_count() -> int:
    """Return the number of GPUs that CUDA reports.

    Raises:
        EngineError: There is no driver, or it is too old.
    """
    try:
        status, count = runtime.cudaGetDeviceCount()
        if status == runtime.cudaError_t.cudaErrorInsufficientDriver:
            raise EngineError(
                f"there is no NVIDIA driver, or it does not support CUDA {runtime.getLocalRuntimeVersion()[1] // 1000}",
                "Install or update it (see 'nvidia-smi'), or use --device cpu.",
            )
        return int(_done((status, count)))
    except RuntimeError as error:  # the bindings do not find the driver's library
        raise EngineError(f"CUDA cannot be used: {error}", "Install NVIDIA's driver, or use --device cpu.") from error


def _done(result: tuple[Any, ...]) -> Any:
    """Return the values of a CUDA call.

    Raises:
        DeviceMemoryError: There is not enough memory.
        EngineError: The call failed.
    """
    status, *values = result
    if int(status) != 0:
        if isinstance(status, driver.CUresult):
            text = status.name.encode()
        else:
            text = runtime.cudaGetErrorString(status)[1]
            runtime.cudaGetLastError()  # clears the error, so that the next call does not report it again
        message = text.decode() if isinstance(text, bytes) else str(status)
        if status in (runtime.cudaError_t.cudaErrorMemoryAllocation, driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY):
            raise DeviceMemoryError(f"CUDA: {message}")
        hint = "See 'nvidia-smi', or use --device cpu."
        raise EngineError(f"CUDA: {message}", hint)
    return None if not values else values[0] if len(values) == 1 else tuple(values)
