"""Marks of the tests that need a GPU. A test has the weakest mark that it needs; the reason of a skip names what is missing."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec

import pytest

from vision_infer.core.errors import EngineError


@lru_cache(maxsize=1)
def missing_driver() -> str:
    """Return why NVIDIA's driver has no GPU; empty if it has one."""
    try:
        find = ctypes.CDLL("libcuda.so.1").cuGetProcAddress_v2
    except (OSError, AttributeError):
        return "no NVIDIA driver for CUDA 12 or newer"
    address, count = ctypes.c_void_p(), ctypes.c_int()
    for name, argument in ((b"cuInit", ctypes.c_void_p(0)), (b"cuDeviceGetCount", ctypes.byref(count))):
        status = find(name, ctypes.byref(address), 12000, ctypes.c_uint64(0), None)
        status = status or ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(address.value or 0)(argument)
        if status:
            return f"the driver returns {status}"
    return "" if count.value else "no GPU"


@lru_cache(maxsize=1)
def missing_cuda() -> str:
    """Return what this package lacks to use a GPU: a driver, or cuda-bindings; empty if it can."""
    if missing_driver():
        return missing_driver()
    try:
        from vision_infer.engine.gpu.cuda import device_count

        return "" if device_count() else "no GPU"
    except EngineError as error:
        return error.message


@lru_cache(maxsize=1)
def missing_torch() -> str:
    """Return what PyTorch lacks to use a GPU, such as a build for CUDA; empty if it can."""
    if find_spec("torch") is None:
        return "PyTorch is not installed"
    if missing_driver():  # the import takes 2 s, and would find none
        return "PyTorch finds none"
    import torch

    return "" if torch.cuda.is_available() else "PyTorch finds none"


def _needs(missing: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(missing), reason=f"needs an NVIDIA GPU: {missing}")


needs_driver = _needs(missing_driver())
"""For tests of libraries that use the driver themselves, such as FFmpeg."""
needs_cuda = _needs(missing_cuda())
"""For tests that use this package's CUDA device."""
needs_torch_cuda = _needs(missing_cuda() or missing_torch())
"""For tests that run PyTorch on this package's CUDA device."""
