"""The outlet of a stream: it writes results to the sinks, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vision_infer.core.clock import Clock
from vision_infer.core.errors import OutputError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.pipeline.completion import NoImage
from vision_infer.sink.sink import Sink, Written
from vision_infer.telemetry.histogram import Histogram


@dataclass(frozen=True, slots=True)
class _CloseOutlet:
    complete: bool


class Outlet:
    """Writes a stream's frames to its sinks, and returns their credits to the window.

    Sinks that draw and encode need milliseconds for each frame. Then the outlet has its own thread, so that they do not slow
    down the other streams. Otherwise the thread that calls :meth:`put` writes.

    Args:
        name: The name of the stream.
        sinks: The stream's own sinks; closed with it.
        shared: The sinks of all streams; not closed here.
        window: Gets a credit back for each frame.
        window_size: The maximum number of frames in the outlet at the same time.
        clock: The monotonic clock.
        failed: Called with the first error of a sink, and whether the sink is shared.
        closed: Called once, when everything is written and closed.
    """

    def __init__(
        self,
        name: str,
        sinks: Sequence[Sink],
        shared: Sequence[Sink],
        window: Window,
        window_size: int,
        clock: Clock,
        failed: Callable[[VisionInferError, bool], None],
        closed: Callable[[], None],
    ) -> None:
        self._sinks = tuple(sinks)
        self._shared = tuple(shared)
        self._all = (*self._sinks, *self._shared)
        self._window = window
        self._clock = clock
        self._failed = failed
        self._closed = closed
        self._broken = False
        self.write_times = Histogram()
        self.present_ns = 0
        self.needs_images = any(sink.needs_images for sink in self._all)
        # Two slots more than the window, for the last events and the message to close: put() never waits.
        self._queue: Channel[tuple[Frame, Result | None] | _CloseOutlet] | None = None
        if self.needs_images:
            self._queue = Channel(window_size + 2)
            threading.Thread(target=self._run, name=f"outlet-{name}", daemon=True).start()

    @property
    def outputs(self) -> tuple[Written, ...]:
        """The complete files of the stream's own sinks."""
        return tuple(written for sink in self._sinks for written in sink.outputs)

    def put(self, frame: Frame, result: Result | None) -> None:
        """Write the stream's next frame."""
        if self._queue is None:
            self._write(frame, result)
        else:
            self._queue.put((frame, result))

    def close(self, complete: bool) -> None:
        """Close the stream's sinks, after its last frame."""
        if self._queue is None:
            self._finish(complete)
        else:
            self._queue.put(_CloseOutlet(complete))

    def _run(self) -> None:
        assert self._queue is not None
        started = self._clock.monotonic_ns()
        while True:
            item = self._queue.get()
            if isinstance(item, _CloseOutlet):
                self.present_ns = self._clock.monotonic_ns() - started
                self._finish(item.complete)
                return
            self._write(*item)
            del item  # do not hold the image's memory while waiting for the next frame

    def _write(self, frame: Frame, result: Result | None) -> None:
        begin = self._clock.monotonic_ns()
        for sink in self._all:
            if not self._broken and not (sink.needs_images and isinstance(frame.image, NoImage)):
                try:
                    sink.write(frame, result)
                except Exception as error:  # noqa: BLE001 - the boundary of a thread: every error must be reported
                    self._sink_failed(sink, error)
        self.write_times.record(self._clock.monotonic_ns() - begin)
        self._window.release()

    def _finish(self, complete: bool) -> None:
        for sink in self._sinks:
            try:
                sink.close(complete)
            except Exception as error:  # noqa: BLE001 - the boundary of a thread: every error must be reported
                self._sink_failed(sink, error)
        self._closed()

    def _sink_failed(self, sink: Sink, error: Exception) -> None:
        self._broken = True
        self._failed(output_failure(error), sink in self._shared)


def output_failure(error: Exception) -> VisionInferError:
    """Return the exception of a sink as an error of this package."""
    if isinstance(error, VisionInferError):
        return error
    failure = OutputError(f"unexpected {type(error).__name__} while writing: {error}", "Please report this.")
    failure.__cause__ = error
    return failure
