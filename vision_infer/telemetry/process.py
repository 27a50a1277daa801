"""What this process has used, as the operating system counts it."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path


def peak_rss_bytes() -> int:
    """Most memory that the process has had resident, bytes."""
    # Linux's ru_maxrss begins with the peak of the process that started this one; VmHWM is our own.
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_ns() -> int:
    """CPU time of all threads of the process, user and system, nanoseconds."""
    return time.process_time_ns()


def machine_cpu_ns(stat: Path = Path("/proc/stat")) -> int:
    """CPU time of all processes of the machine since it was started, nanoseconds; 0 where the system does not tell."""
    try:
        user, nice, system, _, _, *interrupts = (
            int(ticks) for ticks in stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]
        )
        return (user + nice + system + sum(interrupts)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0


def process_age_s() -> float | None:
    """Seconds since the process was started, to a hundredth; None where the system does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            started_ticks = int(file.read().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return None
