"""The smoke test of a runtime runs in a child process; every outcome has a clear message."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
from vision_infer.engine.gpu import gpus
from vision_infer.engine.gpu.gpus import NoGpuError, list_gpus
from vision_infer.engine.smoke_test import run_smoke_test
from vision_infer.model.catalog import bundled_dir
from vision_infer.stream.time_code_reader import draw

CLOCK = bundled_dir() / "clock" / "model.onnx"
MOMENT = 123_456


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    blank = np.zeros((180, 320, 3), np.uint8)
    draw(blank, MOMENT)
    return blank


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_that_works_reads_the_time(runtime: str, image: NDArray[np.uint8]) -> None:
    pytest.importorskip(runtime)
    result = run_smoke_test(CLOCK, runtime, image, "cpu")
    assert (result.engine, result.class_id) == (f"{runtime}-cpu-fp32", MOMENT)
    assert result.version[0].isdecimal()
    assert 0 < result.run_ms < 1000 * result.ready_s


def test_an_engine_error_is_passed_on(image: NDArray[np.uint8]) -> None:
    with pytest.raises(EngineError) as caught:
        run_smoke_test(CLOCK, "tensorflow", image)
    assert caught.value.message == "unknown engine 'tensorflow'"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "(SIGILL). It was built for another CPU."),
        ("raise SystemError('no such driver')", "ended with status 1: SystemError: no such driver"),
        ("print('hello')", "ended with status 0: no message"),
        ("print('[1]')", "ended with status 0: no message"),
        ("import time; time.sleep(30)", "hangs: no answer within 0.5 s"),
    ],
)
def test_a_runtime_that_crashes_or_hangs(image: NDArray[np.uint8], code: str, says: str) -> None:
    with pytest.raises(EngineError) as caught:
        run_smoke_test(CLOCK, "broken", image, limit_s=0.5 if "sleep" in code else 30, program=(sys.executable, "-S", "-c", code))
    assert str(caught.value).startswith("broken ")
    assert says in str(caught.value)


def test_a_missing_program(image: NDArray[np.uint8]) -> None:
    with pytest.raises(EngineError, match="cannot be tested: No such file"):
        run_smoke_test(CLOCK, "broken", image, program=("/nonexistent/python",))


class _Nvml:
    """NVML of a machine with one GPU, which fails as asked."""

    NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_NO_PERMISSION, NVML_ERROR_DRIVER_NOT_LOADED = 12, 4, 9

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, fails: int = 0, count: int = 1) -> None:
        self.fails, self.count, self.over = fails, count, False

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if self.fails:
            raise self.NVMLError(self.fails)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.over = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, _: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=24_000_000_000, free=20_000_000_000)

    def nvmlDeviceGetCudaComputeCapability(self, _: int) -> tuple[int, int]:  # noqa: N802
        return 8, 9

    def nvmlDeviceGetMigMode(self, _: int) -> Any:  # noqa: N802
        raise self.NVMLError(3)

    def nvmlDeviceGetName(self, _: int) -> bytes:  # noqa: N802
        return b"NVIDIA L4"

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _Nvml()
    monkeypatch.setattr(gpus, "import_module", lambda _: nvml)
    (gpu,) = list_gpus()
    assert (gpu.name, gpu.compute_capability, gpu.driver, gpu.mig) == ("NVIDIA L4", "8.9", "580.1", False)
    assert nvml.over


@pytest.mark.parametrize(
    ("nvml", "says", "broken"),
    [
        (_Nvml(12), "no NVIDIA GPU: its driver is not installed", False),
        (_Nvml(4), "this user has no permission to use NVIDIA's driver. Give the user access to /dev/nvidia*", True),
        (_Nvml(9), "NVIDIA's driver is installed but not loaded", True),
        (_Nvml(99), "NVIDIA's driver reports an error: error 99", True),
        (_Nvml(count=0), "NVIDIA's driver is installed but reports no GPU", True),
    ],
)
def test_no_gpu(monkeypatch: pytest.MonkeyPatch, nvml: _Nvml, says: str, broken: bool) -> None:
    monkeypatch.setattr(gpus, "import_module", lambda _: nvml)
    with pytest.raises(NoGpuError) as caught:
        list_gpus()
    assert str(caught.value).startswith(says)
    assert caught.value.broken == broken


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoGpuError, match="nvidia-ml-py is not installed"):
        list_gpus()
