"""Call a hook with a time limit: on a separate thread or in a separate process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from vision_infer.config.stream_policy import HookSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import UsageError
from vision_infer.core.result import Result
from vision_infer.pipeline.hooks.frame import HookFrame, NoPixelsError
from vision_infer.pipeline.hooks.loading import Hook
from vision_infer.pipeline.lanes.child_process import start_connected
from vision_infer.stream.backoff import Backoff

CHILD = "vision_infer.pipeline.hooks.child"
START_S = 60.0
"""The time limit for starting a process and importing the hook, seconds."""
FIRST_S, MAX_S = 1.0, 60.0
"""The first and the maximum wait before a process that was killed or has crashed starts again, seconds."""


class HookFailedError(Exception):
    """A call of a hook has failed.

    Args:
        text: What failed, one line.
        kind: The name of the exception, or ``timeout``, ``crash`` or ``busy``.
        place: Where it failed: file and line; empty if unknown.
    """

    def __init__(self, text: str, kind: str, place: str = "") -> None:
        super().__init__(text)
        self.kind, self.place = kind, place


class HookCall(Protocol):
    """Calls a hook for one stream. One thread uses it."""

    def __call__(self, frame: HookFrame, result: Result) -> Any:
        """Return what the hook returns.

        Raises:
            HookFailedError: It did not return in time, or its process has failed.
            Exception: The hook's own exception, if it runs on a thread.
        """
        ...

    def close(self) -> None:
        """End the thread or process."""
        ...


class ThreadedHook:
    """Calls a hook on a thread. A call that takes too long is given up; Python cannot end it, so that further frames pass without
    the hook until it returns.

    Args:
        function: The hook.
        timeout_s: The time limit of a call, seconds.
        name: The name of the thread.
    """

    def __init__(self, function: Hook, timeout_s: float, name: str) -> None:
        self._function, self._timeout_s = function, timeout_s
        self._late = False
        self._frames: SimpleQueue[tuple[HookFrame, Result] | None] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def __call__(self, frame: HookFrame, result: Result) -> Any:
        """Return what the hook returns, see :class:`HookCall`."""
        try:
            if self._late:
                self._answers.get_nowait()  # the answer of the call that was given up
                self._late = False
            self._frames.put((frame, result))
            answer = self._answers.get(timeout=self._timeout_s)
        except Empty:
            if self._late:
                raise HookFailedError("an earlier call has not returned yet", "busy") from None
            self._late = True
            raise _timeout(self._timeout_s) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the thread, after the present call."""
        self._frames.put(None)

    def _run(self) -> None:
        while (item := self._frames.get()) is not None:
            try:
                answer: Any = self._function(*item)
            except BaseException as error:  # noqa: BLE001 - user code: the caller reports its errors
                answer = error
            del item  # do not hold the image's memory while waiting for the next frame
            self._answers.put(answer)
            del answer


class ProcessHook:
    """Calls a hook in a process. After the time limit, or when it has crashed, the process is killed and later started again.

    The thread that makes it must remain until it is closed: the kernel ends the process with that thread.

    Args:
        settings: The hook.
        clock: The monotonic clock.

    Raises:
        UsageError: The hook cannot be imported.
    """

    def __init__(self, settings: HookSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._backoff = Backoff(FIRST_S, MAX_S, FIRST_S)
        self._start_ns = 0
        """The time before which a failed process must not start again, monotonic."""
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def __call__(self, frame: HookFrame, result: Result) -> Any:
        """Return what the hook returns, see :class:`HookCall`."""
        if self._process is None:
            if self._clock.monotonic_ns() < self._start_ns:
                raise HookFailedError("its process has failed, and starts again later", "busy")
            try:
                self._start()
            except UsageError as error:
                self._failed(0.0)
                raise HookFailedError(str(error), "crash") from None
        end_ns = self._clock.monotonic_ns() + round(self._settings.timeout_s * 1e9)
        fields = (frame.stream, frame.index, frame.pts_s, frame.size, frame.captured_s, frame.file)
        try:
            self._connection.send((fields, frame.shown, result))
            while True:
                if not self._connection.poll(max(0.0, (end_ns - self._clock.monotonic_ns()) / 1e9)):
                    self._failed(0.0)
                    raise _timeout(self._settings.timeout_s)
                kind, *values = self._connection.recv()
                if kind != "image":
                    break
                self._connection.send(_image(frame))
        except (EOFError, OSError):
            raise HookFailedError(f"its process has ended{self._failed(1.0)}", "crash") from None
        self._backoff.reset()
        if kind == "error":
            text, name, place = values
            if name == NoPixelsError.__name__:
                raise NoPixelsError(text)
            raise HookFailedError(text, name, place)
        returned, frame.shown = values
        return returned

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._process = None

    def _start(self) -> None:
        try:
            self._connection, self._process = start_connected(CHILD)
        except OSError as error:
            raise UsageError(f"hook {self._settings.call}: its process cannot start: {error.strerror}") from error
        problem: str | None = f"hook {self._settings.call}: its process has ended while it was starting"
        with suppress(EOFError, OSError):
            self._connection.send((sys.path, self._settings.call, self._settings.folder))
            problem = f"hook {self._settings.call}: its process was not ready within {START_S:g} s"
            if self._connection.poll(START_S):
                problem = self._connection.recv()
        if problem is not None:
            self.close()
            raise UsageError(problem)

    def _failed(self, wait_s: float) -> str:
        """End a process that hangs or has crashed; wait for a crash, and return how it has ended, as text after a verb."""
        process = self._process
        self._start_ns = self._clock.monotonic_ns() + round(self._backoff.next_s() * 1e9)
        if process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
        status = process.returncode
        self.close()
        with suppress(ValueError, TypeError):
            return f": {signal.Signals(-status).name}"
        return "" if status is None else f" with status {status}"


def _image(frame: HookFrame) -> Any:
    try:
        return frame.image
    except NoPixelsError:
        return None


def _timeout(timeout_s: float) -> HookFailedError:
    return HookFailedError(f"did not return within {timeout_s:g} s", "timeout")
