"""ONNX Runtime on CUDA, with a stand-in for the GPU: when it is chosen, what its sessions receive, and how it fails.

The texts of the errors are those of onnxruntime-gpu 1.31. Its wheel is tested too, without a GPU.
"""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.graphs import tiny_graph
from tests.engine.host_device import HostDevice
from tests.support.constraints import pinned
from tests.support.media import ROOT
from vision_infer.core.card import ModelCard
from vision_infer.core.errors import DeviceLostError, EngineError, ModelError
from vision_infer.engine.gpu.accelerator import DeviceMemoryError, NoGpuError
from vision_infer.engine.gpu.ledger import gpu_memory_of, ledger_of
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.runtimes import onnxruntime_cuda
from vision_infer.engine.runtimes.onnxruntime import OnnxRuntimeEngine

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings.driver")

from vision_infer.engine.gpu import cuda

TOO_OLD = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc:63 static onnxruntime::"
    "CUDAExecutionProviderInfo [ONNXRuntimeError] : 1 : FAIL : provider_options_utils.h:187 Parse Failed to parse option "
    '"device_id": CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; '
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc ; line=70 ; expr=cudaGetDeviceCount()"
)
FULL = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Status Message: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) "
    "Failed to allocate memory for requested buffer of size 4585490"
)
OPTIONS = {"device_id", "cudnn_conv_algo_search", "arena_extend_strategy", "use_tf32"}
"""Those of the provider's options that are used; it refuses unknown ones."""


class Session:
    """A session that computes on the CPU and reports CUDA; batches above a size fail for lack of memory."""

    def __init__(self, real: Any, largest: int, error: str) -> None:
        self._real, self._largest, self._error = real, largest, error

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def run_with_iobinding(self, binding: Any) -> None:
        self._real.run_with_iobinding(binding)
        if binding.copy_outputs_to_cpu()[0].shape[0] > self._largest:
            raise RuntimeError(self._error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class OnCuda:
    """The module onnxruntime of onnxruntime-gpu, with the rules of the real one."""

    def __init__(self) -> None:
        self.preloaded = 0
        self.devices: list[int] = []
        """The devices whose contexts exist."""
        self.sessions: list[dict[str, str]] = []
        self.refusal = ""
        self.largest = 1000
        self.error = FULL
        self.weights: Callable[[], object] = lambda: None
        """Allocates the weights of a session."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        self.preloaded += 1
        self.__dict__.get("print", builtins.print)("Failed to load libcublasLt.so.13")

    def InferenceSession(self, path: Any, options: Any, providers: Any, enable_fallback: int = 1) -> Any:  # noqa: N802
        real = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        if providers == ["CPUExecutionProvider"] or not self.preloaded:
            return real  # without its libraries, CUDA is left out with a line in the log
        (_, values), _ = providers
        # The decoder refuses a context that ONNX Runtime creates.
        assert int(values["device_id"]) in self.devices
        error = self.refusal or next((f'Unknown provider option: "{name}"' for name in values if name not in OPTIONS), "")
        if error and not enable_fallback:
            raise RuntimeError(error)
        if error:
            print("*************** EP Error ***************")
            return real
        self.sessions.append(values)
        self.weights()
        return Session(real, self.largest, self.error)


@pytest.fixture
def gpu() -> HostDevice:
    return HostDevice()


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch, gpu: HostDevice) -> OnCuda:
    found = OnCuda()

    def cuda_device(index: int) -> HostDevice:
        found.devices.append(index)
        return gpu

    monkeypatch.setattr("vision_infer.engine.runtimes.onnxruntime.has_driver", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda, "cuda_device", cuda_device)
    monkeypatch.setitem(sys.modules, "onnxruntime", found)
    monkeypatch.setattr(onnxruntime_cuda, "LIBRARIES", ())
    return found


@pytest.fixture
def graph(tmp_path: Path, card: ModelCard) -> Path:
    return tiny_graph(tmp_path / "x.onnx", card)


def falls_back(graph: Path) -> list[str]:
    """Open an engine with ``auto``, which uses the CPU; return the messages."""
    messages: list[str] = []
    with open_engine(graph, EngineRequest(), messages.append) as engine:
        assert engine.name == "onnxruntime-cpu-fp32"
    assert not any("\n" in message for message in messages)
    return messages


def test_auto_runs_on_the_gpu_with_page_locked_buffers(
    graph: Path, on_cuda: OnCuda, gpu: HostDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_engine(graph, EngineRequest()) as engine:
        assert isinstance(engine, OnnxRuntimeEngine)
        assert (engine.name, engine.batch_sizes, engine.in_flight) == ("onnxruntime-cuda-fp32", (1, 2, 4, 8), 2)
        buffers = engine._pool.buffers
        assert all(sorted(buffer.bindings) == [1, 2, 4, 8] for buffer in buffers)  # warmed up
        assert gpu.used == sum(buffer.images.nbytes for buffer in buffers)
        loan = engine.lend(2)
        for value, slot in zip((51, 102), loan.slots, strict=True):
            slot.pixels[:] = value
        assert engine.collect(engine.submit(loan)).outputs["scores"][:, 0] == pytest.approx([0.2, 0.4])
    assert gpu.used == 0
    with open_engine(graph, EngineRequest(device="cuda:0", batch=1)):
        pass
    assert on_cuda.preloaded == 1
    expected = {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }
    assert on_cuda.sessions == [expected] * 2
    assert capsys.readouterr().out == ""


def test_auto_uses_the_cpu_without_a_gpu(graph: Path, on_cuda: OnCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> NoReturn:
        raise NoGpuError("there is no NVIDIA driver")

    for count in (none, lambda: 0):
        monkeypatch.setattr(cuda, "device_count", count)
        assert falls_back(graph) == []


def test_auto_reports_a_driver_that_does_not_work(graph: Path, on_cuda: OnCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*_: object) -> NoReturn:
        raise EngineError("the NVIDIA driver is too old: it supports CUDA 12.8, and CUDA 13 is needed")

    monkeypatch.setattr(cuda, "device_count", old)
    monkeypatch.setattr(cuda, "cuda_device", old)
    (message,) = falls_back(graph)
    assert "the NVIDIA driver is too old: it supports CUDA 12.8" in message


def test_missing_libraries_of_cuda(graph: Path, on_cuda: OnCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "LIBRARIES", ("libc.so.6", "libmissing.so.13", "libother.so.9"))
    (message,) = falls_back(graph)
    assert "ONNX Runtime cannot load libmissing.so.13, libother.so.9" in message
    with pytest.raises(EngineError, match=r"cannot load libmissing\.so\.13") as caught:
        open_engine(graph, EngineRequest(device="cuda:0"))
    assert "'.[gpu]'" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        (
            TOO_OLD,
            EngineError,
            "cuda:0 cannot be used: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
        ),
        (FULL, DeviceMemoryError, "cuda:0 has too little free memory for x.onnx"),
        ("CUDA failure 2: out of memory ; GPU=0", DeviceMemoryError, "cuda:0 has too little free memory for x.onnx"),
        ("CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR ; GPU=0", EngineError, "cuda:0 cannot be used: CUDNN failure 4000"),
    ],
)
def test_a_session_that_cuda_refuses(
    graph: Path, on_cuda: OnCuda, text: str, kind: type[EngineError], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    on_cuda.refusal = text
    (message,) = falls_back(graph)
    assert message.startswith(f"falling back to the CPU: cuda:0 is not available ({told}")
    with pytest.raises(kind) as caught:
        open_engine(graph, EngineRequest(device="cuda:0"))
    assert "--device cpu" in caught.value.hint
    assert capsys.readouterr().out == ""


def test_a_broken_file_is_not_an_error_of_the_gpu(graph: Path, on_cuda: OnCuda) -> None:
    on_cuda.refusal = "Load model from x.onnx failed: Protobuf parsing failed."
    with pytest.raises(ModelError, match="Protobuf parsing failed"):
        open_engine(graph, EngineRequest(device="cuda:0"))


def test_a_full_gpu_gets_smaller_batches(graph: Path, on_cuda: OnCuda, gpu: HostDevice) -> None:
    on_cuda.largest = 2
    messages: list[str] = []
    with open_engine(graph, EngineRequest(), messages.append) as engine:
        assert engine.batch_sizes == (1, 2)
    assert [message.rpartition("; ")[2] for message in messages] == [
        "using batches of at most 4",
        "using batches of at most 2",
    ]
    on_cuda.largest = 0
    assert falls_back(graph)[-1].startswith("falling back to the CPU")
    assert gpu.used == 0


def test_what_the_runtime_allocates_is_counted_until_the_engine_ends(graph: Path, on_cuda: OnCuda, gpu: HostDevice) -> None:
    on_cuda.weights = lambda: gpu.allocate(3_000_000)
    with open_engine(graph, EngineRequest()) as engine:
        memory = gpu_memory_of(engine)
        assert memory is not None
        assert (memory.used["engine"], memory.used["other"]) == (3_000_000, 0)
    assert ledger_of(gpu).report().used["engine"] == 0


def test_a_model_that_does_not_fit_with_what_was_promised_is_refused(graph: Path, on_cuda: OnCuda, gpu: HostDevice) -> None:
    free = gpu.memory()[0]
    ledger_of(gpu).add("decoder", free, "its decoder", lambda: (free, False))
    with pytest.raises(DeviceMemoryError, match=r"MB are needed for x\.onnx, but host:0 has"):
        open_engine(graph, EngineRequest(device="cuda:0"))
    assert on_cuda.sessions == []


def test_if_a_buffer_cannot_be_allocated_the_others_are_freed(
    graph: Path, on_cuda: OnCuda, gpu: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate_host(nbytes: int) -> NDArray[np.uint8]:
        if gpu.used:
            raise DeviceMemoryError("CUDA: out of memory (error 2)")
        return HostDevice.allocate_host(gpu, nbytes)

    monkeypatch.setattr(gpu, "allocate_host", allocate_host)
    with pytest.raises(DeviceMemoryError):
        open_engine(graph, EngineRequest(device="cuda:0"))
    assert gpu.used == 0


def test_an_error_that_ends_the_device(graph: Path, on_cuda: OnCuda, gpu: HostDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> NoReturn:
        raise DeviceLostError("CUDA: an illegal memory access was encountered")

    with open_engine(graph, EngineRequest(device="cuda:0", batch=1)) as engine:
        assert isinstance(engine, OnnxRuntimeEngine)
        engine._sessions[0]._largest = 0
        engine._sessions[0]._error = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"
        with pytest.raises(EngineError, match=r"^host:0 cannot be used: CUDA failure 700"):
            engine.submit(engine.lend(1))
        monkeypatch.setattr(gpu, "memory", lost)
        with pytest.raises(DeviceLostError):
            engine.submit(engine.lend(1))
        monkeypatch.setattr(gpu, "use", lost)  # closing the engine does not hide the first error


CHILD = """
import sys
from ast import literal_eval
from pathlib import Path
from vision_infer.core.errors import EngineError
from vision_infer.engine.open import EngineRequest, open_engine
from vision_infer.engine.runtimes.onnxruntime import load_onnxruntime
from vision_infer.engine.runtimes.onnxruntime_cuda import PROVIDER, missing_libraries
onnxruntime = load_onnxruntime()
assert PROVIDER in onnxruntime.get_available_providers()
missing = missing_libraries(onnxruntime)
with open_engine(Path(sys.argv[1]), EngineRequest()) as engine:
    name = engine.name
try:
    open_engine(Path(sys.argv[1]), EngineRequest(device="cuda:0")).__exit__(None, None, None)
    error = ""
except EngineError as failed:
    error = failed.message
print(repr((onnxruntime.__version__, missing, name, error)), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GPUs are supported on Linux only")
def test_the_wheel_without_cuda_libraries(graph: Path, tmp_path: Path) -> None:
    """The real onnxruntime-gpu: standard output stays empty, ``auto`` uses the CPU, and the error names the libraries."""
    version = pinned("onnxruntime-gpu")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "gpu")]
    subprocess.run([*pip, f"onnxruntime-gpu=={version}"], check=True, timeout=280)
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path / 'gpu'}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(graph)],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    found, missing, name, error = literal_eval(done.stderr.splitlines()[-1])
    assert (found, name) == (version, "onnxruntime-cpu-fp32")
    assert error.startswith(f"ONNX Runtime cannot load {', '.join(missing)}" if missing else "CUDA cannot be started")
    doctor = [sys.executable, "-m", "vision_infer", "doctor", "--json"]
    done = subprocess.run(doctor, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    findings = [finding for finding in json.loads(done.stdout)["findings"] if "onnxruntime on cuda:0" in finding["text"]]
    assert [(found["severity"], found["text"]) for found in findings] == [
        ("warning", f"onnxruntime on cuda:0 does not work: {error}")
    ]
    assert "\n" not in findings[0]["text"]
    assert not missing or "'.[gpu]'" in findings[0]["hint"]
