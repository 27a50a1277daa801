"""The peak of this process's memory, for scripts that a test starts."""

from __future__ import annotations

from pathlib import Path


def peak_bytes() -> int:
    """Return the largest resident memory of this process since it was started. Linux only.

    ``ru_maxrss`` is not suitable: a child process begins with that of the process that started it (getrusage(2)).
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
