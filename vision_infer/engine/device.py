"""The devices of this machine: the CPU and its instructions, and the names of devices."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

from vision_infer.core.errors import EngineError, UsageError

INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
INSTRUCTIONS_ARM = ("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2")
"""The instructions that decide how fast a model runs on a CPU, and what its results are."""


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """Return the CPU's name, with family and model where the system reports them, and its instructions among the above."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine(), ()
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    name = values.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{word} {values[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in values]
    flags = set((values.get("flags") or values.get("Features") or "").split())
    return " ".join([name, *numbers]), tuple(flag for flag in (*INSTRUCTIONS, *INSTRUCTIONS_ARM) if flag in flags)


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the number of CPUs that this process may use: its affinity, and the quota of its cgroup (version 2), rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        granted = -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup, or no quota: "max"
        return count
    return max(1, min(count, granted))


def parse_device(device: str) -> tuple[str, int]:
    """Split ``cpu`` or ``cuda[:N]`` into kind and index.

    Raises:
        UsageError: The device has another form.
    """
    if device == "cpu":
        return "cpu", 0
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", device)
    if match is None:
        raise UsageError(f"unknown device {device!r}", "Use cpu or cuda:N.")
    return "cuda", int(match[1] or 0)


def has_driver() -> bool:
    """Return whether NVIDIA's driver is installed: looking for it is much faster than importing its bindings."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def devices_of(devices: str, on_message: Callable[[str], None] = lambda _: None) -> tuple[str, ...]:
    """Return the devices of the setting ``device``; ``all`` is every GPU that CUDA reports, or the CPU if there is none.

    Args:
        devices: A device, several with commas, or ``all``.
        on_message: Receives the reason why there is no GPU, as a line of text.
    """
    if devices != "all":
        return tuple(devices.split(","))
    try:
        from vision_infer.engine.gpu.cuda import device_count

        count = device_count()
    except EngineError as error:
        on_message(f"no GPU is used, only the CPU: {error}")
        return ("cpu",)
    return tuple(f"cuda:{number}" for number in range(count)) or ("cpu",)
