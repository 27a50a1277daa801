"""The marks of GPU tests: a test is skipped only for something that it needs."""

from __future__ import annotations

import json

import pytest

from tests.support import gpu
from tests.support.fake_cuda import FakeCuda


def report() -> None:
    """Print what is missing for each mark."""
    print(json.dumps([gpu.missing_driver(), gpu.missing_cuda(), gpu.missing_torch()]))


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, ("", "", "PyTorch")),
        ({"FAKE_CUDA_DRIVER": "12080"}, ("", "the NVIDIA driver is too old", "PyTorch")),
        ({"FAKE_CUDA_DEVICES": ""}, ("the driver returns 100", "the driver returns 100", "PyTorch")),
    ],
)
def test_only_what_is_missing_skips_a_test(fake_cuda: FakeCuda, settings: dict[str, str], missing: tuple[str, str, str]) -> None:
    done = fake_cuda.run(f"{__name__}:report", **settings)
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert [text[: len(start)] for text, start in zip(found, missing, strict=True)] == list(missing)
    assert [bool(text) for text in found] == [bool(start) for start in missing]
