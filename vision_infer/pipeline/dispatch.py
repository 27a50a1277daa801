"""Between the threads: the pure batcher behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vision_infer.core.clock import Clock
from vision_infer.core.frame import Frame
from vision_infer.engine.engine import Engine
from vision_infer.pipeline.idle import Idle
from vision_infer.schedule.batcher import Batch, Batcher, Entry, LaneSettings
from vision_infer.schedule.queues import BoundedQueue, Mailbox, QueuedItem
from vision_infer.telemetry.rolling import RollingHistogram, RollingRate


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
    rate: RollingRate = field(default_factory=lambda: RollingRate(1))
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


@dataclass(slots=True)
class Taken:
    """What an inference worker has to do."""

    batch: Batch[Frame] | None
    engine: Engine | None
    """that the batch goes to"""
    outdated: Sequence[Entry[Frame]]
    """frames that waited for too long, and are taken out"""


class Dispatch:
    """Stream workers offer frames, inference workers take batches.

    It never blocks a stream worker: a recorded stream holds no more frames than its queue has places (its window, see
    :class:`vision_infer.pipeline.workers.stream_worker.StreamWorker`), and a live one supersedes.
    """

    def __init__(self, batcher: Batcher[Frame], clock: Clock) -> None:
        self._batcher = batcher
        self._clock = clock
        self._lock = threading.Lock()
        self._idle = Idle(self._lock)
        self._freed = threading.Condition(self._lock)
        """an engine that was replaced has given back its last batch"""
        self._closed = False
        self._loads: dict[str, LaneLoad] = {}
        self._engines: dict[str, Engine] = {}
        self._max_ages: dict[str, int] = {}
        """of live streams"""
        self._using: dict[int, int] = {}
        """batches in each engine now, by its identity"""

    def add_lane(self, settings: LaneSettings, engine: Engine) -> None:
        """Open a lane."""
        with self._lock:
            self._batcher.add_lane(settings)
            self._loads[settings.name] = LaneLoad()
            self._engines[settings.name] = engine

    def swap_engine(self, settings: LaneSettings, engine: Engine, timeout_s: float) -> bool:
        """Let a lane's batches go to another engine, from the next one on, and wait until none is in the old one.

        Args:
            settings: of the lane, for the new engine.
            engine: the new one.
            timeout_s: how long to wait.

        Returns:
            Whether the old engine is free.
        """
        with self._lock:
            old = self._engines[settings.name]
            self._engines[settings.name] = engine
            self._batcher.change_lane(settings)
            self._idle.call_all()
            return self._freed.wait_for(lambda: not self._using.get(id(old)), timeout_s)

    def remove_lane(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: it is in use.
        """
        with self._lock:
            self._batcher.remove_lane(name)
            del self._loads[name]
            del self._engines[name]

    def set_weight(self, stream: str, weight: float) -> None:
        """Change a stream's share of the engine's time."""
        with self._lock:
            self._batcher.shares.set_weight(stream, weight)

    def engine_ns(self, stream: str) -> int:
        """Engine time that a stream has used; 0 where it is not there."""
        with self._lock:
            return round(self._batcher.shares.engine_ns(stream)) if stream in self._batcher.streams else 0

    def load(self, lane: str) -> tuple[LaneLoad, int, int]:
        """What a lane has done, the frames that wait for it now, and its batches in the engine now."""
        with self._lock:
            return self._loads[lane].copy(), *self._batcher.lane_load(lane)

    def sample(self, now_ns: int) -> None:
        """Look how much engine time each lane has used; to be called about once a second."""
        with self._lock:
            for load in self._loads.values():
                load.rate.sample(now_ns, load.engine_ns)

    def join(self, stream: str, lane: str, window: int | None, weight: float, max_age_ns: int | None = None) -> None:
        """Let a stream in.

        Args:
            stream: its name.
            lane: where its frames go.
            window: places of its queue; None gives a live stream's mailbox.
            weight: its share of the engine's time.
            max_age_ns: a frame that is older is not given out, nanoseconds since it was captured; None: any is.
        """
        queue: Mailbox[Frame] | BoundedQueue[Frame] = Mailbox() if window is None else BoundedQueue(window)
        with self._lock:
            self._batcher.join(stream, lane, queue, weight)
            if max_age_ns is not None:
                self._max_ages[stream] = max_age_ns

    def leave(self, stream: str) -> None:
        """The stream has ended and nothing of it waits any more."""
        with self._lock:
            self._batcher.leave(stream)
            self._max_ages.pop(stream, None)

    def offer(self, stream: str, lane: str, sequence: int, frame: Frame) -> QueuedItem[Frame] | None:
        """Let a frame wait for its turn; returns the older frame that it supersedes, or None."""
        with self._lock:
            lost = self._batcher.offer(stream, lane, QueuedItem(frame, sequence, self._clock.monotonic_ns()))
            self._call()
        return lost

    def offer_all(self, stream: str, lane: str, frames: Sequence[tuple[int, Frame]]) -> None:
        """Let frames wait that shall go together, as far as a batch has places: nobody takes the first before the last is there.

        Args:
            stream: its name.
            lane: where it has joined with a queue that has room for them.
            frames: with their sequences.
        """
        with self._lock:
            now = self._clock.monotonic_ns()
            for sequence, frame in frames:
                self._batcher.offer(stream, lane, QueuedItem(frame, sequence, now))
            self._call()

    def leave_lane(self, stream: str, lane: str) -> list[QueuedItem[Frame]]:
        """Take a stream out of one of its lanes, not the last; returns what waited there, which is lost."""
        with self._lock:
            return self._batcher.leave_lane(stream, lane)

    def take(self) -> Taken | None:
        """Wait for a batch, and the engine that it goes to; None when it was closed and nothing waits."""
        with self._lock:
            while True:
                now = self._clock.monotonic_ns()
                outdated = self._outdated(now) if self._max_ages else ()
                batch = self._batcher.take(now)
                if batch is not None:
                    engine = self._engines[batch.lane]
                    self._using[id(engine)] = self._using.get(id(engine), 0) + 1
                    self._call()
                    return Taken(batch, engine, outdated)
                if outdated:
                    return Taken(None, None, outdated)
                if self._closed and self._batcher.waiting == 0:
                    return None
                wake_at = self._batcher.wake_at_ns()
                self._idle.rest(None if wake_at is None else max(0.0, (wake_at - now) / 1e9))

    def _call(self) -> None:
        """Call workers, if there is more to take than workers are coming."""
        while self._idle and self._idle.coming < self._batcher.due:
            self._idle.call()

    def _outdated(self, now_ns: int) -> Sequence[Entry[Frame]]:
        """Take out what waited for too long: no stale frame is inferred."""
        if not self._batcher.room:
            return ()

        def too_old(stream: str, frame: Frame) -> bool:
            max_age_ns, captured_ns = self._max_ages.get(stream), frame.trace.captured_ns
            return max_age_ns is not None and 0 < captured_ns < now_ns - max_age_ns

        return self._batcher.withdraw(too_old)

    def done(self, batch: Batch[Frame], engine: Engine, engine_ns: int) -> None:
        """A batch has left its engine."""
        with self._lock:
            left = self._using[id(engine)] - 1
            if left:
                self._using[id(engine)] = left
            else:
                del self._using[id(engine)]
                if engine is not self._engines.get(batch.lane):
                    self._freed.notify_all()
            self._batcher.done(batch, engine_ns)
            self._loads[batch.lane].add(batch, engine_ns, self._clock.monotonic_ns())
            # Who asks goes on to take what may go now: nobody else need be woken for it.
            if self._closed:
                self._idle.call_all()

    def close(self) -> None:
        """No more frames will be offered: :meth:`take` returns None once nothing waits."""
        with self._lock:
            self._closed = True
            self._idle.call_all()

    @property
    def padded(self) -> int:
        """Places of batches wasted so far."""
        return self._batcher.padded
