"""The marks of GPU tests: a test is skipped only for something that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support import gpu
from tests.support.fake_cuda import FakeCuda
from tests.support.media import ROOT


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


WITHOUT_BINDINGS = """
import sys
sys.modules["cuda"] = None
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_without_the_bindings_tests_of_cuda_are_skipped_and_no_module_fails() -> None:
    files = ["tests/engine", "tests/pipeline", "tests/precision", "tests/service", "tests/stream", "--collect-only"]
    for arguments in (files, ["tests/engine/test_memory_ledger.py", "tests/engine/test_tensorrt_errors.py"]):
        command = [sys.executable, "-c", WITHOUT_BINDINGS, *arguments]
        environ = {name: value for name, value in os.environ.items() if name != "CI"}  # with it, these skips would be failures
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout[-3000:]
