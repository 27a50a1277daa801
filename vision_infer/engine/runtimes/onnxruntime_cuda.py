"""ONNX Runtime on CUDA: the libraries that it loads, the options of its sessions, and its errors in one line."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError

PROVIDER = "CUDAExecutionProvider"
OPTIONS: Mapping[str, str] = {
    # The default, EXHAUSTIVE, times every algorithm at the first batch of each size.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default doubles the arena with each extension; decoders and other engines need that memory.
    "arena_extend_strategy": "kSameAsRequested",
    # FP32 is full float32, as with TensorRT.
    "use_tf32": "0",
}
"""The options of the CUDA provider."""
LIBRARIES = ("libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcufft.so.12", "libcudnn.so.9")
"""The libraries of CUDA 13 and cuDNN 9 that onnxruntime-gpu loads; the extra ``gpu`` installs them."""
_FULL = re.compile(r"out of memory|failed to allocate memory|STATUS_ALLOC_FAILED", re.IGNORECASE)
_CAUSE = re.compile(r"CUDA(?: failure|_ERROR| error)[^;\n]*|(?:CUDNN|CUBLAS|cuDNN|cuBLAS)(?:_STATUS| failure)[^;\n]*")


@lru_cache(maxsize=1)
def missing_libraries(onnxruntime: Any) -> tuple[str, ...]:
    """Load CUDA's libraries for this process, at the first call, and return the names of those that cannot be loaded.

    Args:
        onnxruntime: The module ``onnxruntime``.
    """
    # preload_dlls prints what it does not find, but standard output is for results. redirect_stdout would also catch what other
    # threads print meanwhile; a name in the module replaces the built-in function for this module only.
    onnxruntime.print = lambda *_, **__: None
    onnxruntime.preload_dlls()
    return tuple(name for name in LIBRARIES if not _can_be_loaded(name))


def session_arguments(onnxruntime: Any, index: int) -> dict[str, Any]:
    """Return the arguments of an ``InferenceSession`` on a GPU.

    Args:
        onnxruntime: The module ``onnxruntime``.
        index: The number of the GPU, as CUDA counts them.

    Raises:
        EngineError: ONNX Runtime has no CUDA support, or its libraries are missing.
    """
    if PROVIDER not in onnxruntime.get_available_providers():
        raise EngineError("this ONNX Runtime has no CUDA support", "Run: pip install '.[gpu]', or --device cpu")
    missing = missing_libraries(onnxruntime)
    if missing:
        raise EngineError(f"ONNX Runtime cannot load {', '.join(missing)}", "Run: pip install '.[gpu]', or use --device cpu.")
    # With the fallback, an error is printed to standard output, and the session runs on the CPU.
    options = {"device_id": str(index), **OPTIONS}
    return {"providers": [(PROVIDER, options), "CPUExecutionProvider"], "enable_fallback": 0}


def cuda_error(error: Exception, device: str, purpose: str) -> EngineError | None:
    """Return an error of CUDA in one line; None if the error has another cause, such as the file.

    Args:
        error: The error of ONNX Runtime.
        device: The name of the GPU, such as ``cuda:0``.
        purpose: What needs the memory, for the message.
    """
    text = str(error)
    if _FULL.search(text):
        hint = "Close other programs on the GPU (see 'nvidia-smi'), use a smaller batch, or --device cpu."
        return DeviceMemoryError(f"{device} has too little free memory for {purpose}", hint)
    cause = _CAUSE.search(text)
    if cause is None:
        return None
    hint = "See 'nvidia-smi'. The driver has to support CUDA 13 (580 or newer). Or use --device cpu."
    return EngineError(f"{device} cannot be used: {cause[0].strip()}", hint)


def _can_be_loaded(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
