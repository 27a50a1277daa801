"""The end of a stream's way: its results go into its sinks, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vision_infer.core.clock import Clock
from vision_infer.core.errors import OutputError, VisionInferError
from vision_infer.core.frame import Frame
from vision_infer.core.result import Result
from vision_infer.pipeline.channel import Channel, Window
from vision_infer.sink.sink import Sink, Written
from vision_infer.telemetry.histogram import Histogram


@dataclass(frozen=True, slots=True)
class _Close:
    complete: bool


class Outlet:
    """Writes a stream's frames into its sinks and gives their places in the window back.

    Sinks that draw and encode take milliseconds for each frame: then the outlet has a thread of its own, so that they cost
    the other streams nothing. Otherwise whoever puts, writes.

    Args:
        name: of the stream.
        sinks: the stream's own; closed with it.
        shared: sinks of all streams; not closed here.
        window: gets a credit back for each frame.
        window_size: most frames that can be here at the same time.
        failed: called with the first error of a sink (and whether the sink is shared).
        closed: called once, when everything is written and closed.
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
        # One place more than the window for the closing word: putting never waits.
        self._queue: Channel[tuple[Frame, Result | None] | _Close] | None = None
        if self.needs_images:
            self._queue = Channel(window_size + 1)
            threading.Thread(target=self._run, name=f"outlet-{name}", daemon=True).start()

    @property
    def outputs(self) -> tuple[Written, ...]:
        """What the stream's own sinks have put in its place."""
        return tuple(written for sink in self._sinks for written in sink.outputs)

    def put(self, frame: Frame, result: Result | None) -> None:
        """Take the stream's next frame."""
        if self._queue is None:
            self._write(frame, result)
        else:
            self._queue.put((frame, result))

    def close(self, complete: bool) -> None:
        """The stream has no more frames."""
        if self._queue is None:
            self._finish(complete)
        else:
            self._queue.put(_Close(complete))

    def _run(self) -> None:
        assert self._queue is not None
        started = self._clock.monotonic_ns()
        while True:
            item = self._queue.get()
            if isinstance(item, _Close):
                self.present_ns = self._clock.monotonic_ns() - started
                self._finish(item.complete)
                return
            self._write(*item)
            del item  # the picture's memory is not held while waiting for the next

    def _write(self, frame: Frame, result: Result | None) -> None:
        begin = self._clock.monotonic_ns()
        for sink in self._all:
            if not self._broken:
                try:
                    sink.write(frame, result)
                except Exception as error:  # noqa: BLE001 - a worker's thread is a boundary: nothing may vanish there
                    self._sink_failed(sink, error)
        self.write_times.record(self._clock.monotonic_ns() - begin)
        self._window.release()

    def _finish(self, complete: bool) -> None:
        for sink in self._sinks:
            try:
                sink.close(complete)
            except Exception as error:  # noqa: BLE001 - a worker's thread is a boundary: nothing may vanish there
                self._sink_failed(sink, error)
        self._closed()

    def _sink_failed(self, sink: Sink, error: Exception) -> None:
        self._broken = True
        self._failed(output_failure(error), sink in self._shared)


def output_failure(error: Exception) -> VisionInferError:
    """What a sink raised, as an error of ours."""
    if isinstance(error, VisionInferError):
        return error
    failure = OutputError(f"unexpected {type(error).__name__} while writing: {error}", "please report this")
    failure.__cause__ = error
    return failure
