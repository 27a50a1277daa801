"""Between the threads: the pure batcher behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.schedule.batcher import Batch, Batcher, LaneSettings
from vision_infer.schedule.queues import BoundedQueue, Mailbox, Waiting
from vision_infer.telemetry.rolling import Rate, RollingHistogram


@dataclass(slots=True)
class LaneLoad:
    """What a lane has done so far."""

    batches: dict[int, int] = field(default_factory=dict)
    """by the number of frames in them"""
    frames: int = 0
    padded: int = 0
    engine_ns: int = 0
    times: RollingHistogram = field(default_factory=RollingHistogram)
    """of the engine, for a batch, in the last minute"""
    rate: Rate = field(default_factory=lambda: Rate(1))
    """of engine time, nanoseconds a second"""

    def add(self, batch: Batch[Frame], engine_ns: int, now_ns: int) -> None:
        """Count a batch that has left the engine; one on which it failed (0 ns) is counted elsewhere."""
        if engine_ns <= 0:
            return
        self.times.record(now_ns, engine_ns)
        count = len(batch.entries)
        self.batches[count] = self.batches.get(count, 0) + 1
        self.frames += count
        self.padded += batch.padding
        self.engine_ns += engine_ns

    def copy(self) -> LaneLoad:
        """As it is now."""
        return replace(self, batches=self.batches.copy())


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
        self._loads: dict[str, LaneLoad] = {}

    def add_lane(self, settings: LaneSettings) -> None:
        """Open a lane."""
        with self._changed:
            self._batcher.add_lane(settings)
            self._loads[settings.name] = LaneLoad()

    def remove_lane(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: it is in use.
        """
        with self._changed:
            self._batcher.remove_lane(name)
            del self._loads[name]

    def set_weight(self, stream: str, weight: float) -> None:
        """Change a stream's share of the engine's time."""
        with self._changed:
            self._batcher.shares.set_weight(stream, weight)

    def engine_ns(self, stream: str) -> int:
        """Engine time that a stream has used; 0 where it is not there."""
        with self._changed:
            return round(self._batcher.shares.engine_ns(stream)) if stream in self._batcher.streams else 0

    def load(self, lane: str) -> tuple[LaneLoad, int, int]:
        """What a lane has done, the frames that wait for it now, and its batches in the engine now."""
        with self._changed:
            return self._loads[lane].copy(), *self._batcher.lane_load(lane)

    def sample(self, now_ns: int) -> None:
        """Look how much engine time each lane has used; to be called about once a second."""
        with self._changed:
            for load in self._loads.values():
                load.rate.sample(now_ns, load.engine_ns)

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

    def offer_all(self, stream: str, lane: str, frames: Sequence[tuple[int, Frame]]) -> None:
        """Let frames wait that shall go together, as far as a batch has places: nobody takes the first before the last is there.

        Args:
            stream: its name.
            lane: where it has joined with a queue that has room for them.
            frames: with their sequences.
        """
        with self._changed:
            now = self._clock.monotonic_ns()
            for sequence, frame in frames:
                self._batcher.offer(stream, lane, Waiting(frame, sequence, now))
            self._changed.notify_all()

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
            self._loads[batch.lane].add(batch, engine_ns, self._clock.monotonic_ns())
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
