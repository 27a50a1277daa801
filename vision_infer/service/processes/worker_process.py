"""A worker process: started, watched, and started again when it ends."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.pipeline.lanes.child_process import bound
from vision_infer.stream.backoff import Backoff
from vision_infer.stream.redact import redact

MODULE = "vision_infer.service.worker"
FIRST_S, MAX_S = 0.5, 30.0
"""The first and the maximum wait before a worker starts again, seconds."""
STEADY_S = 60.0
"""A worker that ran for this time starts again after the first wait, seconds."""
KILL_AFTER_S = 12.0
"""The time that a worker has to finish its frames, seconds; then it is killed."""
LOOK_S = 2.0
"""The time in which this process is stopped as well, if a worker was stopped, seconds."""
SILENCE_S = 30.0
"""The time after which a worker that reports nothing is killed, seconds. It reports every few seconds."""
LOCK_S = 1.0
"""The time to wait for a thread that sends to a worker, seconds."""
_MAX_LINE = 64 * 1024

_log = logging.getLogger("vision_infer.service")


class WorkerProcess:
    """Keeps a worker process running; one thread supervises it.

    The process reads one line of JSON from standard input when it starts, and further ones for changed settings. The end of
    standard input ends it, and so does the end of this process. On standard output it reports whether it is ready. Lines on
    standard error belong to the log.

    Args:
        name: The name of the worker.
        start_line: Returns the first line for the process; called before each start.
        on_down: Called with the reason when the process has ended unexpectedly.
        on_line: Called with each line of its log.
        clock: The source of time.
    """

    def __init__(
        self,
        name: str,
        start_line: Callable[[], str],
        on_down: Callable[[str], None],
        on_line: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.name = name
        self.starts = 0
        """The number of starts so far."""
        self.up = False
        """Whether its API can be reached."""
        self.running = False
        """Whether the process runs; it may not be reachable yet."""
        self.ready, self.reason = False, "starting"
        """Whether it can run inference, and if not, the reason."""
        self.error: VisionInferError | None = None
        """The error that made the first start fail."""
        self.failed_starts = 0
        """The number of consecutive starts after which it was never ready."""
        self._start_line = start_line
        self._on_down = on_down
        self._on_line = on_line
        self._clock = clock
        self._stopping = threading.Event()
        # Guards the process and its standard input: the thread below starts it, and others send lines to it or stop it.
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name=f"process-{name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The id of the process; None if it does not run."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the process."""
        self._thread.start()

    def send(self, line: str) -> None:
        """Send a line; a process that does not run gets everything at its next start."""
        with self._lock:
            if self._process is not None:
                _write(self._process, line)

    def kill(self) -> None:
        """Kill the process, which starts again."""
        process = self._process  # without the lock: a thread that sends to it may hold it
        if process is not None:
            process.kill()

    def end(self) -> None:
        """Make the process finish its frames and end; see :meth:`join`."""
        self._stopping.set()
        if not self._lock.acquire(timeout=LOCK_S):  # it does not read what is being sent: join() kills it
            return
        try:
            # Not a signal: Ctrl-C and systemd send one to all processes, and the second one ends a worker immediately.
            if self._process is not None:
                _close_input(self._process)
        finally:
            self._lock.release()

    def join(self, timeout_s: float) -> None:
        """Wait until the process has ended, and kill it after a time limit."""
        if not self._thread.is_alive():
            return
        self._thread.join(max(0.0, timeout_s))
        if self._thread.is_alive():
            _log.error("worker %s does not end and is killed", self.name)
            self.kill()
            self._thread.join(2.0)

    def _supervise(self) -> None:
        backoff = Backoff(FIRST_S, MAX_S, FIRST_S)
        while not self._stopping.is_set():
            began_ns = self._clock.monotonic_ns()
            was_ready, why, status = self._run()
            self.failed_starts = 0 if was_ready else self.failed_starts + 1
            # Ctrl-C and systemd signal all processes at once, and a worker can end before this process has received the signal.
            if self._stopping.wait(0.0 if status else LOOK_S):
                return
            if self.starts == 1 and not was_ready and status in (2, 3, 4, 5):  # invalid settings: it would never start
                self.error = VisionInferError(f"worker {self.name} cannot start", "The line above gives the reason.")
                self.error.exit_status = status
                return
            if self._clock.monotonic_ns() - began_ns >= STEADY_S * 1e9:
                backoff.reset()
            wait_s = backoff.next_s()
            self.reason = f"{why}; it starts again in {wait_s:.1f} s"
            _log.error("worker %s: %s", self.name, self.reason)
            self._on_down(self.reason)
            self._stopping.wait(wait_s)

    def _run(self) -> tuple[bool, str, int]:
        """Run the process to its end; return whether it was ready, the reason for its end, and its exit status."""
        self.starts += 1
        self.running = True
        was_ready = False
        try:
            process = self._spawn()
        except OSError as error:
            self.running = False
            return False, f"it cannot be started: {error.strerror}", 1
        assert process.stdout is not None
        assert process.stderr is not None
        log = threading.Thread(target=self._read_log, args=(process.stderr,), name=f"log-{self.name}", daemon=True)
        log.start()
        watch = threading.Timer(SILENCE_S, self._kill_hung, (process,))  # started by the first report: loading has no time limit
        try:
            for line in iter(lambda: process.stdout.readline(_MAX_LINE), b""):  # type: ignore[union-attr]
                try:
                    self.ready, self.reason = _report(line)
                except (ValueError, KeyError):  # it is broken: it is ended and starts again
                    break
                self.up = True
                was_ready = was_ready or self.ready
                watch.cancel()
                watch = threading.Timer(SILENCE_S, self._kill_hung, (process,))
                watch.daemon = True
                watch.start()
        finally:
            watch.cancel()
            self.up = self.ready = False
            with self._lock:
                _close_input(process)
            _wait_or_kill(process)
            with self._lock:
                self._process = None
            log.join(1.0)  # a process that it started may keep it open
            process.stdout.close()
            self.running = False
        status = process.returncode
        return was_ready, f"killed by signal {-status}" if status < 0 else f"exit status {status}", status

    def _kill_hung(self, process: subprocess.Popen[bytes]) -> None:
        _log.error("worker %s has not reported for %g s and is killed", self.name, SILENCE_S)
        process.kill()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = bound([sys.executable, "-P", "-m", MODULE])
        with self._lock:  # changed settings are sent after the first line, or are part of it
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self._process = process
            _write(process, self._start_line())
            _log.info("worker %s has the process id %d", self.name, process.pid)
            if self._stopping.is_set():  # end() came before there was a process to end
                _close_input(process)
        return process

    def _read_log(self, lines: IO[bytes]) -> None:
        with lines:
            for line in iter(lambda: lines.readline(_MAX_LINE), b""):
                self._on_line(redact(line.decode("utf-8", "replace").rstrip("\r\n")))


def _write(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    with suppress(OSError, ValueError):  # it has just ended
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()


def _close_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # it has just ended
        process.stdin.close()


def _report(line: bytes) -> tuple[bool, str]:
    data = json.loads(line)
    return bool(data["ready"]), str(data["reason"])


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
