"""Another process that works for this one: with low priority, ended when it is not wanted any more, and gone when we are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress

POLL_S = 0.1
KILL_AFTER_S = 2.0
# prctl(PR_SET_PDEATHSIG, SIGKILL): see prctl(2). It is for the thread that has started the child, which waits for it here, and it
# outlives exec. Who started it may have ended before it was asked for: then nobody would be told, so the child looks itself.
_BOUND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that wanted it has ended")
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"no process could be started: {error.strerror}")
"""


def bound(words: Sequence[str]) -> list[str]:
    """A command that the system kills as soon as this thread or its process is gone, however it ended; Linux only, else as it is.

    Args:
        words: the command, with the whole path of its program.
    """
    if sys.platform != "linux":
        return list(words)
    return [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *words]


def run_child(words: Sequence[str], nice: int, stopped: Callable[[], bool]) -> str | None:
    """Run a command with low priority until it ends, or until it shall stop. Where this process is killed, so is the command.

    Args:
        words: the command, with the whole path of its program.
        nice: its niceness, 0–19.
        stopped: asked several times a second.

    Returns:
        What went wrong, in a line; None where nothing did.
    """
    with tempfile.TemporaryFile() as told:
        try:
            process = subprocess.Popen(bound(words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=told)
        except OSError as error:
            return f"no process could be started: {error.strerror}"
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        try:
            while True:
                try:
                    status = process.wait(POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if stopped():
                        return "it was stopped"
        finally:
            _end(process)
        if status == 0:
            return None
        told.seek(0)
        lines = told.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else f"the process ended with status {status}"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
