"""A child process with low priority. It is ended when it is no longer needed, and the kernel kills it when this process ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import BinaryIO

POLL_S = 0.1
KILL_AFTER_S = 2.0
_READ_BYTES = 1 << 16
# prctl(PR_SET_PDEATHSIG, SIGKILL), see https://man7.org/linux/man-pages/man2/prctl.2.html: the kernel kills the child when the
# thread that has started it ends; that thread waits for it here. The setting survives exec. The parent may have ended before
# the call, and then there is no signal, so the child checks its parent itself.
_BOUND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent process has ended")
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"cannot start the process: {error.strerror}")
"""


def bound(command: Sequence[str]) -> list[str]:
    """Return a command that the kernel kills when this thread or its process ends; on other systems than Linux, the same.

    Args:
        command: The command, with the full path of its program.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *command]


def start_connected(module: str) -> tuple[Connection, subprocess.Popen[bytes]]:
    """Start a module of Python as a process; its argument is the number of its end of the connection. See :func:`bound`.

    Raises:
        OSError: The process cannot start.
    """
    connection, child = Pipe()
    with child:
        command = bound([sys.executable, "-m", module, str(child.fileno())])
        try:
            return connection, subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[child.fileno()])
        except OSError:
            connection.close()
            raise


def run_child(
    command: Sequence[str],
    nice: int,
    stopped: Callable[[], bool],
    on_line: Callable[[str], None] = lambda _: None,
    stdin: BinaryIO | None = None,
) -> str | None:
    """Run a command with low priority until it ends or is stopped. If this process is killed, the command is killed too.

    Args:
        command: The command, with the full path of its program.
        nice: The niceness, 0–19.
        stopped: Called several times a second; returns whether to stop.
        on_line: Receives each line of its standard output.
        stdin: The file that it reads as its standard input; None: an empty one.

    Returns:
        What failed, as a line of text; None on success.
    """
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        shown = 0

        def show_lines() -> None:
            nonlocal shown
            *lines, _ = os.pread(output.fileno(), _READ_BYTES, shown).split(b"\n")
            shown += sum(len(line) + 1 for line in lines)
            for line in lines:
                on_line(line.decode("utf-8", "replace"))

        try:
            process = subprocess.Popen(bound(command), stdin=stdin or subprocess.DEVNULL, stdout=output, stderr=errors)
        except OSError as error:
            return f"cannot start the process: {error.strerror}"
        with suppress(OSError):  # the process may have ended already
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        try:
            while True:
                try:
                    status = process.wait(POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    show_lines()
                    if stopped():
                        return "it was stopped"
        finally:
            _end(process)
            show_lines()
        if status == 0:
            return None
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
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
