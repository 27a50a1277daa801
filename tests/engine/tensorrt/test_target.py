"""The GPUs of a plan: named ones, or this machine's; errors come before the build."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.tensorrt.networks import OPTIONS, SM_89, api, graph
from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine.tensorrt import compile as compile_module
from vision_infer.engine.tensorrt.api import Api, load_api
from vision_infer.engine.tensorrt.compile import PlanOptions, check_options, compile_plan, profiles_of
from vision_infer.engine.tensorrt.target import FindGpu, GpuTarget, LocalGpu, choose_target, find_gpu


def with_gpu(name: str, capability: str) -> FindGpu:
    return lambda _: LocalGpu(name, capability)


def without_gpu(_: int) -> LocalGpu | None:
    return None


def tensorrt() -> Api:
    """Return TensorRT, as far as the choice needs it."""
    return replace(api(), runtime="tensorrt", builds_ahead=False, has_timings=True)


def test_named_capabilities_are_sorted() -> None:
    assert choose_target(api(), ["sm_120", "sm_89", "sm_89"], find=without_gpu) == GpuTarget(("sm_89", "sm_120"))


def test_the_default_is_the_gpu_of_this_machine() -> None:
    assert choose_target(api(), [], find=with_gpu("NVIDIA GeForce RTX 4090", "sm_89")) == GpuTarget(("sm_89",))
    assert choose_target(tensorrt(), [], find=with_gpu("NVIDIA L4", "sm_89")) == GpuTarget(("sm_89",), "NVIDIA L4")
    assert choose_target(tensorrt(), [], anywhere=True, find=with_gpu("NVIDIA L4", "sm_89")) == GpuTarget(("sm_80",))


def test_one_of_several_gpus_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [LocalGpu("NVIDIA L4", "sm_89"), LocalGpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "sm_80")]
    found = choose_target(tensorrt(), [], index=1, find=lambda index: gpus[index])
    assert found == GpuTarget(("sm_80",), gpus[1].name, "1g.5gb", 1)
    assert (gpus[0].mig, gpus[1].mig) == ("", "1g.5gb")
    used: list[tuple[int, str]] = []
    monkeypatch.setattr(compile_module, "use_gpu", lambda index: used.append((index, threading.current_thread().name)))
    compile_plan(graph("embedder", "fp32"), api(), replace(SM_89, index=1), OPTIONS)
    assert used == [(1, "plan builder")]
    compile_plan(graph("embedder", "fp32"), api(), SM_89, OPTIONS)
    assert len(used) == 1


@pytest.mark.parametrize("wanted", ["sm_90", "sm_100", "sm_70"])
def test_a_gpu_that_tensorrt_rtx_does_not_support(wanted: str) -> None:
    with pytest.raises(UsageError, match=rf"--for {wanted}: TensorRT-RTX does not support it\. Use sm_75, sm_80, sm_86, sm_89"):
        choose_target(api(), [wanted], find=without_gpu)
    with pytest.raises(EngineError, match="TensorRT-RTX does not run on NVIDIA H100"):
        choose_target(api(), [], find=with_gpu("NVIDIA H100", "sm_90"))


@pytest.mark.parametrize("wanted", ["89", "8.9", "SM_89", "sm_89 ", "sm_", "ada", ""])
def test_an_invalid_compute_capability(wanted: str) -> None:
    with pytest.raises(UsageError, match=r"not a compute capability\. Write it as sm_89"):
        choose_target(api(), [wanted], find=without_gpu)


def test_without_a_gpu() -> None:
    with pytest.raises(EngineError, match=r"this machine has no NVIDIA GPU.*Name one with --for: sm_75"):
        choose_target(api(), [], find=without_gpu)
    with pytest.raises(EngineError, match="TensorRT builds on the target GPU"):
        choose_target(tensorrt(), ["sm_89"], find=without_gpu)


def test_tensorrt_builds_for_the_gpu_of_this_machine_only() -> None:
    with pytest.raises(UsageError, match=r"--for sm_120: TensorRT builds only for this machine's GPU \(sm_89\)"):
        choose_target(tensorrt(), ["sm_120"], find=with_gpu("NVIDIA L4", "sm_89"))


def test_options_that_a_runtime_or_a_graph_does_not_have() -> None:
    for options in (PlanOptions(version_compatible=True), PlanOptions(hardware_compatible=True)):
        with pytest.raises(UsageError, match="-compatible"):
            check_options(api(), options, "fp32")
        check_options(tensorrt(), options, "fp32")
    check_options(api(), PlanOptions(tf32=True), "fp32")
    with pytest.raises(UsageError, match="--tf32 is not valid for fp16"):
        check_options(api(), PlanOptions(tf32=True), "fp16")


@pytest.mark.parametrize(
    ("sizes", "own", "others"),
    [((1,), None, (1, 1, 1)), ((1, 2, 4, 8), (1, 1, 1), (2, 8, 8)), ((4, 16), None, (4, 16, 16))],
)
def test_the_profiles_cover_all_batch_sizes(
    sizes: tuple[int, ...], own: tuple[int, int, int] | None, others: tuple[int, int, int]
) -> None:
    """TensorRT has one for a single image; TensorRT-RTX needs one only."""
    assert profiles_of(tensorrt(), sizes) == ((others,) if own is None else (own, others))
    assert profiles_of(api(), sizes) == ((sizes[0], sizes[-1], sizes[-1]),)


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_infer.engine.tensorrt.api.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"TensorRT-RTX is not installed. Run: pip install '\.\[tensorrt-rtx\]'"):
        load_api("tensorrt-rtx")
    with pytest.raises(EngineError, match=r"TensorRT is not installed. Run: pip install '\.\[tensorrt\]'"):
        load_api("tensorrt")


def test_a_runtime_whose_libraries_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file\nmore")

    monkeypatch.setattr("vision_infer.engine.tensorrt.api.find_spec", lambda name: name)
    monkeypatch.setattr("vision_infer.engine.tensorrt.api.import_module", broken)
    with pytest.raises(
        EngineError, match=r"TensorRT cannot be loaded: libnvinfer\.so\.11: cannot open shared object file. Run: pip"
    ):
        load_api("tensorrt")


def test_finding_the_gpu_of_this_machine_raises_no_error() -> None:
    found = find_gpu(0)
    assert found is None or found.capability.startswith("sm_")
    assert find_gpu(63) is None


CHOOSE_ONNX_RUNTIME = """
import onnxruntime
onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
from vision_infer.engine.runtimes.onnxruntime import RUNTIME
found = RUNTIME.choose_device()
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [("from vision_infer.engine.tensorrt.target import find_gpu; found = find_gpu()", "None"), (CHOOSE_ONNX_RUNTIME, "cpu")],
)
def test_without_a_driver_the_bindings_are_not_imported(code: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")  # it is found first, also on a machine with a driver
    code += "\nimport sys; print(found, 'cuda.bindings' in sys.modules)"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{expected} False\n"
