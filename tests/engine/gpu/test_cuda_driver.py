"""The device and its engine on the real bindings: over a stand-in for the driver's library, and on a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.fake_cuda import VIOLATION, FakeCuda
from tests.support.gpu import needs_cuda

CASES = "tests.engine.gpu.cuda_cases"
WHOLE = ["copies", "engine", "surface"]


@pytest.mark.parametrize("case", WHOLE)
def test_the_device_keeps_the_rules_of_the_driver(fake_cuda: FakeCuda, case: str) -> None:
    done = fake_cuda.run(f"{CASES}:{case}")
    assert (done.status, done.err) == (0, "")
    assert done.left == "0 streams, 1 events, 0 graphs, 0 device blocks, 0 host blocks"  # the event of the kept device


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("case", WHOLE)
def test_the_device_on_a_gpu(case: str) -> None:
    from tests.engine.gpu import cuda_cases

    getattr(cuda_cases, case)()


@pytest.mark.parametrize(
    ("why", "problem"),
    [
        ("missing", "NVRTC is not installed"),
        ("error", r"the kernels cannot be compiled for compute_\d+: surface\.cu\(1\): error: expected a declaration\n"),
    ],
)
def test_without_kernels_for_frames_an_engine_runs_and_reports_why_once(fake_cuda: FakeCuda, why: str, problem: str) -> None:
    done = fake_cuda.run(f"{CASES}:engine_without_kernels", NVRTC=why)
    assert done.status == 0, done.err
    assert re.match(f"copy-cuda: decoded frames go through host memory: {problem}", done.out)
    assert done.out.count("host memory") == 1
    assert done.err.startswith("cuda:0: decoded frames are copied to host memory as a whole: ")


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        ("context_without_flags", "context-flags"),
        ("event_never_recorded", "event-not-recorded"),
        ("synchronize_in_capture", "call-during-capture"),
        ("allocate_in_capture", "call-during-capture"),
        ("free_while_copying", "memory-freed-in-use"),
        ("use_after_free", "memory-not-allocated"),
        ("kernel_with_an_absurd_size", "kernel-arguments"),
        ("kernel_that_reads_freed_memory", "memory-not-allocated"),
    ],
)
def test_a_broken_rule_is_reported(fake_cuda: FakeCuda, case: str, rule: str) -> None:
    done = fake_cuda.run(f"{CASES}:{case}")
    assert (done.status, done.err.split(":")[:2]) == (VIOLATION, ["fake_libcuda", f" {rule}"])


def test_the_flags_of_the_context_are_set_before_its_first_use_and_logged(fake_cuda: FakeCuda) -> None:
    done = fake_cuda.run(f"{CASES}:open_and_log")
    assert done.calls.index("cuDevicePrimaryCtxSetFlags") < done.calls.index("cuDevicePrimaryCtxRetain")
    assert done.err == "DEBUG cuda:0: primary context: flags 4, active 1, setting the flags returned 0\n"


def test_a_context_of_another_library_with_other_flags_gives_a_warning(fake_cuda: FakeCuda) -> None:
    done = fake_cuda.run(f"{CASES}:open_and_log", FAKE_CUDA_FOREIGN="8")
    assert done.status == 0
    assert done.err.splitlines()[1].startswith(
        "WARNING cuda:0: another library created the CUDA context with flags 8 instead of 4. FFmpeg refuses it"
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"FAKE_CUDA_DRIVER": "12040"},
            "the NVIDIA driver is too old: it supports CUDA 12.4, and CUDA 13 is needed. "
            "Update the driver (580 or newer for CUDA 13), or use --device cpu.",
        ),
        (
            {"FAKE_CUDA_DEVICES": ""},
            "CUDA cannot be started: no device (error 100). In a container, use --gpus all. Otherwise see 'nvidia-smi', or use "
            "--device cpu.",
        ),
        (
            {"CUDA_VISIBLE_DEVICES": "7"},
            "CUDA cannot be started: CUDA_VISIBLE_DEVICES=7 selects no GPU. In a container, use --gpus all. Otherwise see "
            "'nvidia-smi', or use --device cpu.",
        ),
        (
            {"FAKE_CUDA_FAIL": "cuInit:1:803"},
            "CUDA cannot be started: system driver mismatch (error 803). Restart the machine after an upgrade of the driver.",
        ),
        (
            {"FAKE_CUDA_FAIL": "cuDevicePrimaryCtxRetain:1:46"},
            "cuda:0 cannot be used: device unavailable (error 46). Another process may use it exclusively: see 'nvidia-smi'.",
        ),
    ],
    ids=["old driver", "no GPU", "no visible GPU", "upgraded driver", "used exclusively"],
)
def test_a_gpu_that_cannot_be_used_gives_one_line(fake_cuda: FakeCuda, settings: dict[str, str], expected: str) -> None:
    done = fake_cuda.run(f"{CASES}:open_device", **settings)
    kind = "NoGpuError" if "error 100" in expected or "selects no GPU" in expected else "EngineError"
    assert (done.err, done.out) == ("", f"{kind} 4 {expected}\n")


def test_a_full_gpu_gives_one_line(fake_cuda: FakeCuda) -> None:
    done = fake_cuda.run(f"{CASES}:open_device", FAKE_CUDA_FAIL="cuDevicePrimaryCtxRetain:1:2")
    line = "cuda:0 has no memory for a CUDA context. Close other programs on it (see 'nvidia-smi'), or use another."
    assert (done.err, done.out) == ("", f"DeviceMemoryError 4 {line}\n")


FULL = "about 0 MB are needed for its buffers, but cuda:0 has 0 of 9000 MB free (in use: CUDA and other programs 9000)"


@pytest.mark.parametrize(
    ("free_mb", "lines"),
    [
        (0.03, [f"copy-cuda: batches of 8 are left out: {FULL}", "(1, 2, 4)"]),
        (
            0.001,
            [
                *[f"copy-cuda: batches of {size} are left out: {FULL}" for size in (8, 4, 2)],
                f"DeviceMemoryError: {FULL}. Close other programs on it, or use another device.",
            ],
        ),
    ],
)
def test_on_a_full_gpu_batches_are_smaller(fake_cuda: FakeCuda, free_mb: float, lines: list[str]) -> None:
    device = f"NVIDIA L4|GPU-11111111-aaaa-bbbb-cccc-0123456789ab|{free_mb}|9000|19.9"
    done = fake_cuda.run(f"{CASES}:full_gpu", FAKE_CUDA_DEVICES=device)
    assert (done.status, done.err, done.out.splitlines()) == (0, "", lines)
    assert done.left.startswith("0 streams, 1 events, 0 graphs, 0 device blocks, 0 host blocks")


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        ("cuEventSynchronize:5:700", "CUDA: illegal address (error 700); this process cannot use the GPU any longer"),
        ("cuMemcpyHtoDAsync:5:719", "CUDA: launch failed (error 719); this process cannot use the GPU any longer"),
        ("cuEventSynchronize:5:999", "CUDA: unknown (error 999); this process cannot use the GPU any longer"),
        ("cuMemcpyDtoDAsync:9:702", "CUDA: launch timeout (error 702); this process cannot use the GPU any longer"),
        ("cuStreamWaitEvent:9:46", "the GPU is no longer available (device unavailable (error 46)). See 'nvidia-smi' and dmesg."),
    ],
)
def test_an_engine_reports_a_lost_device_and_closes(fake_cuda: FakeCuda, failure: str, line: str) -> None:
    done = fake_cuda.run(f"{CASES}:broken_engine", FAKE_CUDA_FAIL=failure)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"DeviceLostError 6 copy-cuda failed on a batch of 2: {line}\n"


def test_another_failure_is_not_a_lost_device(fake_cuda: FakeCuda) -> None:
    done = fake_cuda.run(f"{CASES}:broken_engine", FAKE_CUDA_FAIL="cuMemcpyHtoDAsync:5:1")
    assert done.out.startswith("EngineError 4 copy-cuda failed on a batch of 2: CUDA: invalid value (error 1)")


@pytest.mark.parametrize("command", ["serve test://?size=320x180&fps=20 --port 0", "run test://?size=320x180&fps=20"])
def test_a_lost_device_ends_the_process_with_its_own_exit_status(fake_cuda: FakeCuda, tmp_path: Path, command: str) -> None:
    home = str(tmp_path)
    done = fake_cuda.run(f"{CASES}:command", COMMAND=command, FAKE_CUDA_FAIL="cuEventSynchronize:9:719", VISION_INFER_HOME=home)
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.status == 6, done.err
    assert lines == [
        "error: nothing-cuda failed on a batch of 1: CUDA: launch failed (error 719); this process cannot use the GPU any longer"
    ]
