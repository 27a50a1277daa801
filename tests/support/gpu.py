"""Whether there is a GPU that these tests can use, and why not."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import pytest

from vision_infer.core.errors import EngineError


@lru_cache(maxsize=1)
def missing_gpu() -> str:
    """What is missing; empty where there is a GPU."""
    try:
        from vision_infer.engine.gpu.cuda import device_count

        return "" if device_count() else "no GPU"
    except EngineError as error:
        return error.message


def _reason() -> str:
    missing = missing_gpu()
    if not missing and find_spec("torch") is not None:
        import torch

        return "" if torch.cuda.is_available() else "PyTorch sees none"
    return missing or "PyTorch is not installed"


@lru_cache(maxsize=1)
def why_not() -> str:
    """The reason for which tests on a GPU are skipped; empty: they run."""
    reason = _reason()
    return f"needs an NVIDIA GPU: {reason}" if reason else ""


needs_gpu = pytest.mark.skipif(bool(why_not()), reason=why_not() or "needs an NVIDIA GPU")
"""for tests that run PyTorch on it"""
