"""The smoke test of a runtime runs in a child process; every outcome has a clear message."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from vision_infer.core.errors import EngineError
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
