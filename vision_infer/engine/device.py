"""What there is to run on."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from vision_infer.core.errors import EngineError, UsageError

INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
INSTRUCTIONS_ARM = ("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2")
"""those that decide how fast a network is on a processor, and what comes out of it"""


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """The processor's name, with its family and model where the system tells them, and which of the above it has."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine(), ()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    name = told.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{word} {told[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in told]
    flags = set((told.get("flags") or told.get("Features") or "").split())
    return " ".join([name, *numbers]), tuple(one for one in (*INSTRUCTIONS, *INSTRUCTIONS_ARM) if one in flags)


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group (version 2), rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        granted = -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no group, or no quota: "max"
        return count
    return max(1, min(count, granted))


def parse_device(device: str) -> tuple[str, int]:
    """``cpu`` or ``cuda[:N]`` as (kind, index).

    Raises:
        UsageError: anything else.
    """
    if device == "cpu":
        return "cpu", 0
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", device)
    if match is None:
        raise UsageError(f"unknown device {device!r}", "use cpu or cuda:N")
    return "cuda", int(match[1] or 0)


def device_of(devices: str, number: int) -> str:
    """Where an engine goes: several GPUs, such as ``cuda:0,cuda:1``, take turns.

    Args:
        devices: as the user wrote them.
        number: how many engines are there already.

    Raises:
        UsageError: one of several is no GPU.
    """
    named = [one.strip() for one in devices.split(",")]
    for one in named if len(named) > 1 else ():
        if parse_device(one)[0] != "cuda":
            raise UsageError(f"device {devices!r}: engines take turns on GPUs only", "write cuda:0,cuda:1, or one device")
    return named[number % len(named)]


def load_onnxruntime() -> Any:
    """The module ``onnxruntime``, told first to send nothing about its use anywhere: since 1.29 it does on Linux, unless told.

    Who wants that nevertheless sets ``ORT_DISABLE_TELEMETRY=0``.

    Raises:
        EngineError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_runtime() from error
    return onnxruntime


def load_openvino() -> Any:
    """The module ``openvino``, without the part that reports each import to its makers.

    It takes that part's absence for granted where the package ``openvino-telemetry`` is not installed; here it never finds it.
    A program that has imported ``openvino`` itself before us is not meddled with.

    Raises:
        EngineError: it is not installed.
    """
    hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise EngineError("OpenVINO is not installed", "pip install 'vision-infer[openvino]'") from error
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]


def missing_runtime() -> EngineError:
    """The error for an installation without any engine."""
    return EngineError("no inference engine is installed", "pip install 'vision-infer[cpu]' (or [gpu] with an NVIDIA GPU)")
