"""Run a command and measure its cost from outside, in the same way for every program.

A small separate process (this file, with the standard library only) starts the command. Linux includes the memory of the process
that calls exec in the peak of the new program: if the benchmark with NumPy and Matplotlib started it, every contender would seem
to need at least as much memory as the benchmark.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple


class Cost(NamedTuple):
    """The cost of a command."""

    wall_s: float
    """Wall time from before the start until after the end, seconds."""
    cpu_s: float
    """User and system time, seconds."""
    peak_rss_bytes: int
    status: int
    """The exit status; a negative number is the signal that ended the command."""
    stdout: str


class CommandFailedError(RuntimeError):
    """A contender failed."""


def measure(command: list[str], timeout_s: int = 900) -> Cost:
    """Run a command to its end; its standard error is passed through.

    Args:
        command: The program and its arguments.
        timeout_s: The time after which the command is killed, seconds.

    Raises:
        CommandFailedError: If the exit status is not 0.
    """
    starter = [sys.executable, "-I", "-S", __file__, str(timeout_s), *command]
    output = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True).stdout
    cost = Cost(*json.loads(output))
    if cost.status != 0:
        raise CommandFailedError(f"{' '.join(command)}: exit status {cost.status}")
    return cost


def _run(command: list[str], timeout_s: int) -> Cost:
    with tempfile.TemporaryFile("w+") as stdout:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout)
        signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(timeout_s)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        signal.alarm(0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak, process.returncode, stdout.read())


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[2:], int(sys.argv[1]))))
