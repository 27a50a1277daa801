"""Reports whether the tests can use a GPU, and why not."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import pytest

from vision_infer.core.errors import EngineError


@lru_cache(maxsize=1)
def missing_gpu() -> str:
    """Return what is missing; empty if there is a GPU."""
    try:
        from vision_infer.engine.gpu.cuda import device_count

        return "" if device_count() else "no GPU"
    except EngineError as error:
        return error.message


def _reason() -> str:
    missing = missing_gpu()
    if not missing and find_spec("torch") is not None:
        import torch

        return "" if torch.cuda.is_available() else "PyTorch finds none"
    return missing or "PyTorch is not installed"


@lru_cache(maxsize=1)
def why_not() -> str:
    """Return why tests on a GPU are skipped; empty if they run."""
    reason = _reason()
    return f"needs an NVIDIA GPU: {reason}" if reason else ""


needs_gpu = pytest.mark.skipif(bool(why_not()), reason=why_not() or "needs an NVIDIA GPU")
"""Marks tests that run PyTorch on a GPU."""
