"""Runs one command and says what it cost, seen from outside, alike for every program.

The command is started by a small process of its own (this file, with the standard library only). Linux counts the memory of the
process that calls exec into the peak of the program it becomes: started from a harness that holds NumPy and Matplotlib,
every contender would seem to need at least as much as the harness.
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
    """What a command cost."""

    wall_s: float
    """from before its start until after its end, seconds"""
    cpu_s: float
    """user and system time, seconds"""
    peak_rss_bytes: int
    status: int
    """exit status; negative: the signal that ended it"""
    stdout: str


class CommandFailedError(RuntimeError):
    """A contender did not end well."""


def measure(command: list[str], timeout_s: int = 900) -> Cost:
    """Run a command to its end, its errors on our own stderr.

    Args:
        command: program and arguments.
        timeout_s: it is killed after that many seconds.

    Raises:
        CommandFailedError: its exit status is not 0.
    """
    starter = [sys.executable, "-I", "-S", __file__, str(timeout_s), *command]
    told = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True).stdout
    cost = Cost(*json.loads(told))
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
