"""The CPU, and the names of devices."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vision_infer.core.errors import EngineError, UsageError
from vision_infer.engine.device import available_cpus, cpu_facts, devices_of, parse_device
from vision_infer.engine.registry import no_runtime
from vision_infer.engine.runtimes import openvino
from vision_infer.engine.runtimes.onnxruntime import load_onnxruntime
from vision_infer.engine.runtimes.openvino import load_openvino


@pytest.mark.parametrize(
    ("device", "parsed"), [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:0", ("cuda", 0)), ("cuda:12", ("cuda", 12))]
)
def test_devices(device: str, parsed: tuple[str, int]) -> None:
    assert parse_device(device) == parsed


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu:0", "cuda:1234", "cuda:0 "])
def test_invalid_devices(device: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_device(device)
    assert repr(device) in caught.value.message
    assert "cuda:N" in caught.value.hint


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("content", "cpus"),
    [
        ("max 100000\n", 16),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("9900000 100000\n", 16),
        ("", 16),
        ("nonsense\n", 16),
        ("a b\n", 16),
        ("100000 0\n", 16),
    ],
)
def test_the_quota_of_the_cgroup(tmp_path: Path, sixteen: None, content: str, cpus: int) -> None:
    cgroup = tmp_path / "cpu.max"
    cgroup.write_text(content)
    assert available_cpus(cgroup) == cpus


def test_all_devices_are_the_gpus_that_cuda_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = ModuleType("vision_infer.engine.gpu.cuda")
    monkeypatch.setitem(sys.modules, cuda.__name__, cuda)
    cuda.device_count = lambda: 3  # type: ignore[attr-defined]
    assert devices_of("all") == ("cuda:0", "cuda:1", "cuda:2")
    assert [devices_of(one) for one in ("auto", "cuda:0,cpu")] == [("auto",), ("cuda:0", "cpu")]


def test_all_devices_are_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise EngineError("there is no NVIDIA driver", "Install it.")

    cuda = ModuleType("vision_infer.engine.gpu.cuda")
    monkeypatch.setitem(sys.modules, cuda.__name__, cuda)
    cuda.device_count = none  # type: ignore[attr-defined]
    lines: list[str] = []
    assert devices_of("all", lines.append) == ("cpu",)
    assert lines == ["no GPU is used, only the CPU: there is no NVIDIA driver. Install it."]


def test_without_a_cgroup(tmp_path: Path, sixteen: None) -> None:
    assert available_cpus(tmp_path / "none") == 16


def test_this_machine_has_a_cpu() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


def test_without_a_runtime_the_hint_says_what_to_install() -> None:
    assert ".[cpu]" in no_runtime().hint


X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: A Processor
flags\t\t: fpu avx2 avx512f avx512_vnni other

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd asimddp bf16 i8mm
CPU part\t: 0xd40
"""


def test_the_name_and_instructions_of_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text(X86)
    assert cpu_facts(tmp_path / "x86") == ("A Processor family 6 model 207", ("avx2", "avx512f", "avx512_vnni"))
    (tmp_path / "arm").write_text(ARM)
    name, instructions = cpu_facts(tmp_path / "arm")
    assert name
    assert instructions == ("asimd", "asimddp", "bf16", "i8mm")
    for content in ("", "nothing\n"):
        (tmp_path / "odd").write_text(content)
        assert cpu_facts(tmp_path / "odd")[1] == ()
    assert cpu_facts(tmp_path / "none")[0]


def test_runtimes_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="ONNX Runtime is not installed"):
        load_onnxruntime()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match="OpenVINO is not installed") as caught:
        load_openvino()
    assert ".[openvino]" in caught.value.hint


def test_the_telemetry_of_openvino_is_hidden_during_the_import_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)

    def imported(name: str) -> str:
        seen.append((name, sys.modules.get("openvino_telemetry", "free")))
        return name

    monkeypatch.setattr(openvino, "import_module", imported)
    assert load_openvino() == "openvino"
    assert seen == [("openvino", None)]
    assert "openvino_telemetry" not in sys.modules
    monkeypatch.setitem(sys.modules, "openvino", object())  # nothing changes if the program has imported it already
    load_openvino()
    assert seen[-1] == ("openvino", "free")
