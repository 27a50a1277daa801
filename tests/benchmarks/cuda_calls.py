"""Batches on CUDA's driver, for processes over the stand-in for the driver's library."""

from __future__ import annotations

from benchmarks.gpu.submit import measured
from vision_infer.engine.gpu.cuda import cuda_device

FEW, MANY = 3, 13


def few_from_device() -> None:
    _run(FEW, True)


def many_from_device() -> None:
    _run(MANY, True)


def few_from_host() -> None:
    _run(FEW, False)


def many_from_host() -> None:
    _run(MANY, False)


def _run(batches: int, on_device: bool) -> None:
    row = measured(cuda_device(0), on_device, 0, batches)
    assert row["outputs_are_right"], "the outputs differ"
