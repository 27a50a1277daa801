"""The list of GPUs: in CUDA's order, only those that CUDA may use, and what is missing if there is none."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.engine.gpu.nvml import Nvml
from tests.support.fake_cuda import FakeCuda
from vision_infer.engine.gpu import gpus
from vision_infer.engine.gpu.accelerator import NoGpuError
from vision_infer.engine.gpu.gpus import list_gpus

L4 = "NVIDIA L4|GPU-11111111-aaaa-bbbb-cccc-0123456789ab|20000|24000|8.9"
H100 = "NVIDIA H100|GPU-22222222-aaaa-bbbb-cccc-0123456789ab|70000|80000|9.0"
SLICE = "NVIDIA H100 MIG 1g.10gb|MIG-33333333-aaaa-bbbb-cccc-0123456789ab|9000|10000|9.0"
L4_IS = "NVIDIA L4: 20.0 of 24.0 GB free, compute capability 8.9, driver 580.1"
H100_IS = "NVIDIA H100: 70.0 of 80.0 GB free, compute capability 9.0, driver 580.1"
SLICE_IS = "NVIDIA H100 MIG 1g.10gb: 9.0 of 10.0 GB free, compute capability 9.0, driver 580.1, MIG"


def findings(fake_cuda: FakeCuda, devices: list[str], **settings: str) -> Any:
    done = fake_cuda.run("tests.engine.gpu.nvml:print_findings", FAKE_CUDA_DEVICES=";".join(devices), **settings)
    assert (done.status, done.err) == (0, "")
    assert "cuDevicePrimaryCtxRetain" not in done.calls
    return json.loads(done.out)


def test_the_order_is_that_of_cuda(fake_cuda: FakeCuda) -> None:
    assert findings(fake_cuda, [H100, L4]) == [True, f"ok: cuda:0 {H100_IS}", f"ok: cuda:1 {L4_IS}"]


@pytest.mark.parametrize("visible", ["1", "GPU-1111"])
def test_gpus_that_are_not_visible_are_not_listed(fake_cuda: FakeCuda, visible: str) -> None:
    assert findings(fake_cuda, [H100, L4], CUDA_VISIBLE_DEVICES=visible) == [True, f"ok: cuda:0 {L4_IS}"]


def test_a_mig_instance_has_its_own_memory(fake_cuda: FakeCuda) -> None:
    assert findings(fake_cuda, [L4, SLICE], CUDA_VISIBLE_DEVICES="MIG-33333333") == [True, f"ok: cuda:0 {SLICE_IS}"]


def test_a_driver_that_is_too_old_or_hidden_gpus_are_a_warning(fake_cuda: FakeCuda) -> None:
    usable, text = findings(fake_cuda, [L4], FAKE_CUDA_DRIVER="12020")
    assert (usable, text) == (
        False,
        "warning: the NVIDIA driver is too old: it supports CUDA 12.2, and CUDA 13 is needed",
    )
    usable, text = findings(fake_cuda, [L4], CUDA_VISIBLE_DEVICES="3")
    assert (usable, text) == (False, "warning: CUDA cannot be started: CUDA_VISIBLE_DEVICES=3 selects no GPU")


def test_without_cuda_for_python_the_order_is_that_of_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(f"{H100};{L4}")
    monkeypatch.setattr(gpus, "import_module", lambda _: nvml)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.delitem(sys.modules, "vision_infer.engine.gpu.cuda", raising=False)
    monkeypatch.delattr("vision_infer.engine.gpu.cuda", raising=False)
    assert [(gpu.index, gpu.name, gpu.compute_capability, gpu.mig) for gpu in list_gpus()] == [
        (0, "NVIDIA L4", "8.9", False),
        (1, "NVIDIA H100", "9.0", False),
    ]
    assert nvml.over


@pytest.mark.parametrize(
    ("nvml", "says", "broken"),
    [
        (Nvml(L4, 12), "no NVIDIA GPU: its driver is not installed", False),
        (Nvml(L4, 4), "this user has no permission to use NVIDIA's driver. Give the user access to /dev/nvidia*", True),
        (Nvml(L4, 9), "NVIDIA's driver is installed but not loaded", True),
        (Nvml(L4, 15), "a GPU no longer answers. See dmesg for Xid errors", True),
        (Nvml(L4, 99), "NVIDIA's driver reports an error: error 99", True),
        (Nvml(""), "NVIDIA's driver is installed but reports no GPU", True),
    ],
)
def test_no_gpu(monkeypatch: pytest.MonkeyPatch, nvml: Nvml, says: str, broken: bool) -> None:
    monkeypatch.setattr(gpus, "import_module", lambda _: nvml)
    with pytest.raises(NoGpuError) as caught:
        list_gpus()
    assert str(caught.value).startswith(says)
    assert caught.value.broken == broken


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoGpuError, match="nvidia-ml-py is not installed"):
        list_gpus()
