"""Facts about the GPU, its driver and the libraries, which decide what can run."""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
import subprocess
import time
from collections.abc import Iterator

from benchmarks.gpu.devices import find_devices
from benchmarks.gpu.plan import Row, Step

PACKAGES = ("av", "cuda-bindings", "nvidia-cuda-nvrtc", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "tensorrt-rtx")
LIBRARIES = (
    *("libcuda.so.1", "libnvcuvid.so.1", "libcudart.so.13", "libcublasLt.so.13", "libcudnn.so.9", "libnvrtc.so.13"),
    *("libnvinfer.so.11", "libnvinfer.so.10", "libtensorrt_rtx.so.1"),
)
PROGRAMS = ("nvidia-smi", "trtexec", "tensorrt_rtx", "compute-sanitizer")


def steps() -> Iterator[Step]:
    """Yield the steps."""
    yield "GPUs", gpus
    yield "driver", driver
    yield "packages", packages
    yield "libraries", libraries
    yield "context", context
    yield "kernel", kernel
    yield "NVDEC", nvdec


def gpus() -> Iterator[Row]:
    """Yield a row for each GPU."""
    devices, cuda = find_devices()
    for index, device in enumerate(devices):
        yield {"gpu": index, **device.to_dict(), "cuda": cuda}


def driver() -> Iterator[Row]:
    """Yield what ``nvidia-smi`` reports."""
    query = "driver_version,memory.total,memory.used,mig.mode.current,compute_mode,persistence_mode,power.limit,clocks.max.sm"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
    )
    for line in (done.stdout or done.stderr).strip().splitlines():
        yield dict(zip(query.split(","), line.split(", "), strict=False))


def packages() -> Iterator[Row]:
    """Yield the versions of the packages; None: not installed."""
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        yield {"package": name, "version": version or "-"}


def libraries() -> Iterator[Row]:
    """Yield which libraries the loader finds, and which programs there are."""
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name)
            found = True
        except OSError:
            found = False
        yield {"library": name, "found": found}
    for name in PROGRAMS:
        yield {"program": name, "found": shutil.which(name) is not None}


def context() -> Iterator[Row]:
    """Yield the flags and the memory of the primary context. FFmpeg accepts only the flags 4."""
    from cuda.bindings import driver as cuda

    from vision_infer.engine.gpu.cuda import cuda_device

    before = _free_bytes()
    cuda_device(0)
    after = _free_bytes()
    _, flags, active = cuda.cuDevicePrimaryCtxGetState(0)
    taken = None if before is None or after is None else before - after
    yield {"flags": int(flags), "active": int(active), "context_bytes": taken}


def _free_bytes() -> int | None:
    """Return the free memory of the first GPU, from outside CUDA; None if NVML does not report it."""
    from vision_infer.core.errors import EngineError
    from vision_infer.engine.gpu.gpus import list_gpus

    try:
        return list_gpus()[0].free_bytes
    except EngineError:
        return None


def kernel() -> Iterator[Row]:
    """Yield how long the conversion kernel takes to compile."""
    from vision_infer.engine.gpu.surface_kernel import compiled

    architecture = f"sm_{find_devices()[0][0].capability}"
    began = time.monotonic()
    code = compiled(architecture)
    yield {"architecture": architecture, "bytes": len(code), "seconds": round(time.monotonic() - began, 3)}


def nvdec() -> Iterator[Row]:
    """Yield whether FFmpeg can use the GPU after the program has created the context."""
    from av.codec import Codec
    from av.codec.hwaccel import HWAccel

    from vision_infer.engine.gpu.cuda import cuda_device

    cuda_device(0)
    HWAccel("cuda", device="0", allow_software_fallback=False, is_hw_owned=True).create(Codec("h264", "r"))
    yield {"opened": True}
