"""Every name, overload and null result that the package uses exists in the real bindings of TensorRT and TensorRT-RTX."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.engine.graphs import tiny_graph
from tests.engine.tensorrt.strict_binding import StrictModule
from tests.support.media import ROOT
from vision_infer.core.card import ModelCard

STUBS = {
    "libnvinfer.so.11": (
        "createInferBuilder_INTERNAL",
        "createInferRuntime_INTERNAL",
        "createInferRefitter_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvinfer_plugin.so.11": ("initLibNvInferPlugins",),
    "libnvonnxparser.so.11": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}
"""The libraries that the binding of TensorRT 11 loads, and the functions that it uses of each."""


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Return a folder with libraries whose functions return null."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    for library, functions in STUBS.items():
        code = "\n".join(f"void *{function}(void) {{ return 0; }}" for function in functions)
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(tmp_path / library)]
        subprocess.run(command, input=code, text=True, check=True)
    return tmp_path


@pytest.mark.parametrize(("runtime", "module"), [("tensorrt", "tensorrt_bindings"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_all_calls_fit_the_real_binding(runtime: str, module: str, stubs: Path, card: ModelCard, tmp_path: Path) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    command = [sys.executable, "-m", "tests.engine.tensorrt.binding_calls", runtime, str(tiny_graph(tmp_path / "x.onnx", card))]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stubs)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " names" in done.stdout.splitlines()[-1]


def test_other_calls_are_refused() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    context: Any = StrictModule(trt, {}).make("IExecutionContext")
    assert context.set_input_shape("images", (1, 32, 32, 3))
    assert not hasattr(context, "enqueue_v3")
    for call, arguments in (
        (context.set_input_shape, ("images",)),
        (context.set_input_shape, ("images", "(1, 32, 32, 3)")),
        (context.set_device_memory, (0,)),
        (context.set_device_memory, (0, 1000, 1)),
    ):
        with pytest.raises(AssertionError, match="fits none of"):
            call(*arguments)
    with pytest.raises(AssertionError, match="cannot be set"):
        context.active_optimization_profile = 1
    with pytest.raises(AttributeError):
        context.device_memory_v2 = 0
