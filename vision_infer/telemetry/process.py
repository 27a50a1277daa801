"""The resources that this process has used, as counted by the operating system."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path


def peak_rss_bytes() -> int:
    """Return the maximum resident memory of the process, bytes."""
    # On Linux, ru_maxrss includes the peak of the parent process before exec; VmHWM is only our own. See getrusage(2), proc(5).
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_ns() -> int:
    """Return the CPU time of all threads of the process, user and system, nanoseconds."""
    return time.process_time_ns()


def machine_cpu_ns(stat: Path = Path("/proc/stat")) -> int:
    """Return the CPU time of all processes since the machine was started, nanoseconds; 0 if unknown."""
    try:
        user, nice, system, _, _, *interrupts = (
            int(ticks) for ticks in stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]
        )
        return (user + nice + system + sum(interrupts)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0


def process_age_s() -> float | None:
    """Return the time since the process was started, seconds, to a hundredth; None if unknown."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            started_ticks = int(file.read().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return None
