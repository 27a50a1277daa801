"""The hooks of one stream: a thread between the results stage and the outlet, so that a slow hook stalls no other stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from vision_infer.config.stream_policy import HookSettings
from vision_infer.core.clock import Clock
from vision_infer.core.errors import VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.hooks.calls import HookCall, HookFailedError, ProcessHook, ThreadedHook
from vision_infer.pipeline.hooks.checking import checked, file_of, place_of
from vision_infer.pipeline.hooks.frame import HookFrame, NoPixelsError
from vision_infer.pipeline.hooks.loading import Hook, load_hook
from vision_infer.pipeline.stream_record import HookCounts, StreamRecord

MAX_LOGGED = 20
"""The maximum number of different errors of a stream's hooks that are logged; all errors are counted."""
_MANY = 50
"""The number of calls after which a hook is reported as too slow for its camera."""
_log = logging.getLogger("vision_infer.hook")


@dataclass(slots=True)
class Hooked:
    """A frame on its way through the hooks, and back to the results stage."""

    frame: Frame
    result: Result | None
    """The result, and later what the hooks have returned; None for a frame without inference, which passes."""
    captured_s: float | None
    gated: bool = False
    last: bool = False
    """Whether it only carries the events at the end of the stream."""
    called: bool = False
    """Whether it had a result, so that the hooks were called."""
    spent_ns: int = 0
    """The time in the hooks."""
    shown: NDArray[np.uint8] | None = None
    """The image that replaces the frame's own in the sinks, uint8 [H, W, 3] RGB."""
    withheld: bool = False
    """Whether a hook with ``on_error: drop`` has failed: no sink gets the image."""


@dataclass(frozen=True, slots=True)
class _OpenHook:
    name: str
    call: HookCall
    drop: bool
    file: str | None


@dataclass(frozen=True, slots=True)
class _HookChange:
    settings: Sequence[HookSettings]
    error: SimpleQueue[Exception | None] = field(default_factory=SimpleQueue)
    """Receives the answer: None when the hooks are open."""


class HookStage:
    """Calls the hooks of one stream, one after the other, for one frame at a time and in order, on a thread.

    The number of frames inside is bounded by the window of the stream: each frame holds a credit.

    Args:
        stream: The name of the stream.
        settings: The hooks of the stream; if there are none, ``function`` is called.
        function: The hook of all streams.
        clock: The monotonic clock.

    Raises:
        UsageError: A hook cannot be loaded.
    """

    def __init__(self, stream: str, settings: Sequence[HookSettings], function: Hook | None, clock: Clock) -> None:
        self._stream, self._function, self._clock = stream, function, clock
        self._frames: SimpleQueue[Hooked | _HookChange | None] = SimpleQueue()
        self._inside = 0
        self._logged: set[tuple[str, str]] = set()
        self._calls, self._slow = 0, False
        self._counts = HookCounts()
        self._record: StreamRecord
        self._done: Callable[[Hooked], None]
        threading.Thread(target=self._run, name=f"hook-{stream}", daemon=True).start()
        try:
            self.change(settings)
        except VisionInferError:
            self.close()
            raise

    def __len__(self) -> int:
        return self._inside

    def join(self, record: StreamRecord, done: Callable[[Hooked], None]) -> None:
        """Begin with a stream: ``done`` receives its frames, on the thread of the hooks, and must call :meth:`left`."""
        self._record, self._done = record, done
        record.hooks = self._counts

    def change(self, settings: Sequence[HookSettings]) -> None:
        """Replace the hooks, after the frames that are inside, and wait for it.

        Raises:
            UsageError: A hook cannot be loaded; the old ones stay.
        """
        change = _HookChange(settings)
        self._frames.put(change)
        error = change.error.get()
        if error is not None:
            raise error

    def put(self, frame: Hooked) -> None:
        """Take the stream's next frame. The results stage calls this, and :meth:`left`."""
        self._inside += 1
        self._frames.put(frame)

    def left(self) -> None:
        """Count a frame that has come back."""
        self._inside -= 1

    def close(self) -> None:
        """End the thread and the processes, after the frames that are inside."""
        self._frames.put(None)

    def _run(self) -> None:
        hooks: list[_OpenHook] = []
        while (item := self._frames.get()) is not None:
            if isinstance(item, _HookChange):
                hooks = self._changed(hooks, item)
                continue
            if item.result is not None:
                self._call(hooks, item, item.result)
            self._done(item)
            del item  # do not hold the image's memory while waiting for the next frame
        _close(hooks)

    def _changed(self, hooks: list[_OpenHook], change: _HookChange) -> list[_OpenHook]:
        opened: list[_OpenHook] = []
        try:
            for settings in change.settings:
                opened.append(self._open(settings))  # noqa: PERF401 - those that are open are closed when one fails
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: the caller raises it
            _close(opened)
            change.error.put(error)
            return hooks
        if self._function is not None and not opened:
            name = getattr(self._function, "__name__", type(self._function).__name__)
            opened.append(self._threaded(self._function, HookSettings(call=name)))
        _close(hooks)
        change.error.put(None)
        return opened

    def _open(self, settings: HookSettings) -> _OpenHook:
        if settings.process:
            return _OpenHook(settings.call, ProcessHook(settings, self._clock), settings.on_error == "drop", None)
        return self._threaded(load_hook(settings.call, settings.folder), settings)

    def _threaded(self, function: Hook, settings: HookSettings) -> _OpenHook:
        call = ThreadedHook(function, settings.timeout_s, f"hook-call-{self._stream}")
        return _OpenHook(settings.call, call, settings.on_error == "drop", file_of(function))

    def _call(self, hooks: Sequence[_OpenHook], frame: Hooked, result: Result) -> None:
        begin = self._clock.monotonic_ns()
        own, image = frame.frame, frame.frame.image
        shown = HookFrame(image.to_rgb, own.stream, own.index, own.pts_s, image.size, frame.captured_s, own.file)
        frame.called = True
        for hook in hooks:
            returned: Result | None = result
            try:
                returned = checked(hook.call(shown, result), result)
            except NoPixelsError:
                pass
            except (Exception, SystemExit) as error:  # noqa: BLE001 - user code: its errors must not end the stream
                self._failed(hook, error)
                if hook.drop:
                    returned, frame.withheld = None, True
            frame.result = returned
            if returned is None:
                break
            result = returned
        frame.shown = shown.shown
        end = self._clock.monotonic_ns()
        frame.spent_ns = end - begin
        self._counts.times.record(end, frame.spent_ns)
        self._calls += 1
        if self._calls % _MANY == 0:
            self._warn_if_slow(end)

    def _failed(self, hook: _OpenHook, error: BaseException) -> None:
        counts, text = self._counts, " ".join(str(error).split())[:500]
        if isinstance(error, HookFailedError):
            kind, place = error.kind, error.place
        else:
            kind, place = type(error).__name__, place_of(error, hook.file)
        counts.errors += 1
        counts.timeouts += kind in ("timeout", "busy")
        if kind != "busy":
            counts.error = f"{hook.name}: {kind}: {text}" + f" ({place})" * bool(place)
        if (kind, place) in self._logged or len(self._logged) >= MAX_LOGGED or kind == "busy":
            return
        self._logged.add((kind, place))
        effect = "dropped" if hook.drop else "unchanged"
        rest = f"the result is {effect}, and further errors of this kind are only counted"
        _log.warning("%s: hook %s; %s", self._stream, counts.error, rest)

    def _warn_if_slow(self, now_ns: int) -> None:
        """Log once that the hooks of a camera take longer than the time between two frames: then frames are dropped."""
        live = self._record.live
        if self._slow or live is None:
            return
        interval_ms = max(live.interval_ns / 1e6, 1000 / live.wanted_fps if live.wanted_fps else 0.0)
        usual_ms = self._counts.times.quantiles_ms(now_ns)["p50"]
        if usual_ms > interval_ms > 0:
            self._slow = True
            text = (
                "%s: its hooks take %.0f ms for a result, longer than the %.0f ms between frames: frames are dropped (backlogged)"
            )
            _log.warning(text, self._stream, usual_ms, interval_ms)


def _close(hooks: Sequence[_OpenHook]) -> None:
    for hook in hooks:
        hook.call.close()


def open_hooks(stream: str, settings: Sequence[HookSettings], function: Hook | None, clock: Clock) -> HookStage | None:
    """Open the hooks of a stream; None if it has none. See :class:`HookStage`."""
    return HookStage(stream, settings, function, clock) if settings or function is not None else None


def check_hooks(settings: Sequence[HookSettings], clock: Clock) -> None:
    """Load hooks, to refuse them before any work is done.

    Raises:
        UsageError: A hook cannot be loaded.
    """
    stage = open_hooks("check", settings, None, clock)
    if stage is not None:
        stage.close()
