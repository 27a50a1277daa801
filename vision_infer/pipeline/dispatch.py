"""Between the threads: the pure batcher behind one lock."""

from __future__ import annotations

import threading

from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.schedule.batcher import Batch, Batcher
from vision_infer.schedule.queues import BoundedQueue, Mailbox, Waiting


class Dispatch:
    """Stream workers offer frames, inference workers take batches.

    It never blocks a stream worker: a recorded stream holds no more frames than its queue has places (its window, see
    :class:`vision_infer.pipeline.stream_worker.StreamWorker`), and a live one supersedes.
    """

    def __init__(self, batcher: Batcher[Frame], clock: Clock) -> None:
        self._batcher = batcher
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False

    def join(self, stream: str, lane: str, window: int | None, weight: float) -> None:
        """Let a stream in.

        Args:
            stream: its name.
            lane: where its frames go.
            window: places of its queue; None gives a live stream's mailbox.
            weight: its share of the engine's time.
        """
        queue: Mailbox[Frame] | BoundedQueue[Frame] = Mailbox() if window is None else BoundedQueue(window)
        with self._changed:
            self._batcher.join(stream, lane, queue, weight)

    def leave(self, stream: str) -> None:
        """The stream has ended and nothing of it waits any more."""
        with self._changed:
            self._batcher.leave(stream)

    def offer(self, stream: str, lane: str, sequence: int, frame: Frame) -> Waiting[Frame] | None:
        """Let a frame wait for its turn; returns the older frame that it supersedes, or None."""
        with self._changed:
            lost = self._batcher.offer(stream, lane, Waiting(frame, sequence, self._clock.monotonic_ns()))
            self._changed.notify()
        return lost

    def take(self) -> Batch[Frame] | None:
        """Wait for a batch; None when it was closed and nothing waits."""
        with self._changed:
            while True:
                now = self._clock.monotonic_ns()
                batch = self._batcher.take(now)
                if batch is not None:
                    return batch
                if self._closed and self._batcher.waiting == 0:
                    return None
                wake_at = self._batcher.wake_at_ns()
                self._changed.wait(None if wake_at is None else max(0.0, (wake_at - now) / 1e9))

    def done(self, batch: Batch[Frame], engine_ns: int) -> None:
        """A batch has left the engine."""
        with self._changed:
            self._batcher.done(batch, engine_ns)
            if self._batcher.waiting:
                self._changed.notify()
            if self._closed:
                self._changed.notify_all()

    def close(self) -> None:
        """No more frames will be offered: :meth:`take` returns None once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def padded(self) -> int:
        """Places of batches wasted so far."""
        return self._batcher.padded
