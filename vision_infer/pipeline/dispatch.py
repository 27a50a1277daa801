"""The dispatch between the threads: the pure batcher behind one lock."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vision_infer.core.clock import Clock
from vision_infer.core.errors import EngineError
from vision_infer.core.frame import Frame
from vision_infer.engine.engine import Engine
from vision_infer.engine.gpu.accelerator import DeviceMemoryError
from vision_infer.pipeline.idle import Idle
from vision_infer.pipeline.lanes.loads import LaneLoad, ReplicaLoad
from vision_infer.pipeline.status import ReplicaRemoval
from vision_infer.schedule.batcher import Batch, Batcher, Entry
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.schedule.queues import BoundedQueue, Mailbox, QueuedItem

REMOVE_AFTER = 3
"""The number of failures in a row after which a replica is removed from its lane, if the lane has another."""
RETRY_S, MAX_RETRY_S = 10.0, 300.0
"""The time after which a replica that was removed for a shortage of memory is used again, seconds; it doubles each time."""


@dataclass(slots=True)
class Assignment:
    """The next work of an inference worker."""

    batch: Batch[Frame] | None
    engine: Engine | None
    """The engine for the batch."""
    outdated: Sequence[Entry[Frame]]
    """Frames that waited too long; they were removed from their queues."""


class Dispatch:
    """Stream workers offer frames, inference workers take batches.

    It never blocks a stream worker: a recorded stream has no more frames than its queue has capacity for (its window, see
    :class:`vision_infer.pipeline.workers.stream_worker.StreamWorker`), and a live stream replaces its older frame.
    """

    def __init__(self, batcher: Batcher[Frame], clock: Clock) -> None:
        self._batcher = batcher
        self._clock = clock
        # The one lock on the frame path. It guards everything below, and the batcher. Stream workers hold it to offer a frame,
        # inference workers to take and to finish a batch, and the supervisor to change lanes and streams.
        self._lock = threading.Lock()
        self._idle = Idle(self._lock)
        self._freed = threading.Condition(self._lock)
        """Notified when a replaced engine has finished its last batch."""
        self._closed = False
        self._loads: dict[str, LaneLoad] = {}
        self._max_ages: dict[str, int] = {}
        """The maximum age of live streams' frames, nanoseconds."""
        self._using: dict[int, int] = {}
        """The number of batches in each engine now, by its identity."""

    def add_lane(self, settings: LaneSettings, engine: Engine) -> None:
        """Open a lane with one replica."""
        with self._lock:
            self._batcher.add_lane(settings)
            self._loads[settings.name] = LaneLoad([ReplicaLoad(engine, settings)])

    def add_replica(self, settings: LaneSettings, engine: Engine) -> None:
        """Add a replica to a lane; it takes batches at once."""
        with self._lock:
            self._batcher.add_replica(settings)
            self._loads[settings.name].replicas.append(ReplicaLoad(engine, settings))
            self._idle.call_all()

    def swap_engine(self, settings: LaneSettings, engine: Engine, timeout_s: float, replica: int = 0) -> bool:
        """Send a replica's batches to another engine, from the next batch on, and wait until none is in the old engine.

        Args:
            settings: The settings of the replica for the new engine.
            engine: The new engine.
            timeout_s: The maximum wait, seconds.
            replica: The number of the replica. If it was removed, it is in use again.

        Returns:
            Whether the old engine is free.
        """
        with self._lock:
            load = self._loads[settings.name].replicas[replica]
            old = load.engine
            load.engine, load.settings, load.removed = engine, settings, ""
            load.failures_in_a_row = load.shortages = load.again_at_ns = 0
            self._batcher.change_lane(settings, replica)
            self._idle.call_all()
            return self._freed.wait_for(lambda: not self._using.get(id(old)), timeout_s)

    def remove_lane(self, name: str) -> None:
        """Close a lane.

        Raises:
            ValueError: The lane is in use.
        """
        with self._lock:
            self._batcher.remove_lane(name)
            del self._loads[name]

    def set_weight(self, stream: str, weight: float) -> None:
        """Change a stream's share of the engine's time."""
        with self._lock:
            self._batcher.shares.set_weight(stream, weight)

    def engine_ns(self, stream: str) -> int:
        """Return the engine time that a stream has used, nanoseconds; 0 when there is no such stream."""
        with self._lock:
            return round(self._batcher.shares.engine_ns(stream)) if stream in self._batcher.streams else 0

    def load(self, lane: str) -> tuple[LaneLoad, int, int]:
        """Return the work of a lane so far, and the number of its waiting frames and of its batches in the engine now."""
        with self._lock:
            return self._loads[lane].copy(), *self._batcher.lane_load(lane)

    def sample(self, now_ns: int) -> Sequence[tuple[str, str]]:
        """Sample the engine time of each lane; call it about once a second.

        Returns:
            The lane and the device of each replica that is used again after a shortage of memory.
        """
        again: list[tuple[str, str]] = []
        with self._lock:
            for lane, load in self._loads.items():
                for number, replica in enumerate(load.replicas):
                    replica.rate.sample(now_ns, replica.engine_ns)
                    if 0 < replica.again_at_ns <= now_ns:
                        # One more failure removes it again.
                        replica.removed, replica.again_at_ns, replica.failures_in_a_row = "", 0, REMOVE_AFTER - 1
                        self._batcher.change_lane(replica.settings, number)
                        again.append((lane, replica.settings.device))
            if again:
                self._idle.call_all()
        return again

    def join(self, stream: str, lane: str, window: int | None, weight: float, max_age_ns: int | None = None) -> None:
        """Add a stream to a lane.

        Args:
            stream: The name of the stream.
            lane: The lane of its frames.
            window: The capacity of its queue; None: a mailbox, for a live stream.
            weight: The stream's share of the engine's time.
            max_age_ns: The maximum age of a frame that is inferred, nanoseconds since its capture; None: any age.
        """
        queue: Mailbox[Frame] | BoundedQueue[Frame] = Mailbox() if window is None else BoundedQueue(window)
        with self._lock:
            self._batcher.join(stream, lane, queue, weight)
            if max_age_ns is not None:
                self._max_ages[stream] = max_age_ns

    def leave(self, stream: str) -> None:
        """Remove a stream that has ended; none of its frames is waiting."""
        with self._lock:
            self._batcher.leave(stream)
            self._max_ages.pop(stream, None)

    def offer(self, stream: str, lane: str, sequence: int, frame: Frame) -> QueuedItem[Frame] | None:
        """Queue a frame; return the older frame that it supersedes, or None."""
        with self._lock:
            now = self._clock.monotonic_ns()
            lost = self._batcher.offer(stream, lane, QueuedItem(frame, sequence, now, len(frame.tiles) or 1))
            self._call()
        return lost

    def offer_all(self, stream: str, lane: str, frames: Sequence[tuple[int, Frame]]) -> None:
        """Queue frames that belong in one batch, as far as it has capacity: no worker takes the first before the last is queued.

        Args:
            stream: The name of the stream.
            lane: The lane, in which the stream's queue has capacity for them.
            frames: The frames with their sequence numbers.
        """
        with self._lock:
            now = self._clock.monotonic_ns()
            for sequence, frame in frames:
                self._batcher.offer(stream, lane, QueuedItem(frame, sequence, now))
            self._call()

    def leave_lane(self, stream: str, lane: str) -> list[QueuedItem[Frame]]:
        """Remove a stream from one of its lanes, not the last; return the frames that waited there, which are lost."""
        with self._lock:
            return self._batcher.leave_lane(stream, lane)

    def take(self) -> Assignment | None:
        """Wait for a batch and its engine; return None when the dispatch is closed and no frame waits."""
        with self._lock:
            while True:
                now = self._clock.monotonic_ns()
                # Frames that are too old are removed first, so that they do not take slots of the batch.
                outdated = self._outdated(now) if self._max_ages else ()
                batch = self._batcher.take(now)
                if batch is not None:
                    engine = self._loads[batch.lane].replicas[batch.replica].engine
                    self._using[id(engine)] = self._using.get(id(engine), 0) + 1
                    self._call()  # another batch may be ready: this worker will be busy with its own
                    return Assignment(batch, engine, outdated)
                if outdated:
                    return Assignment(None, None, outdated)
                if self._closed and self._batcher.waiting == 0:
                    return None
                # Sleep until a frame or a free engine wakes up this worker, or a lane has waited long enough for a fuller batch.
                wake_at = self._batcher.wake_at_ns()
                self._idle.rest(None if wake_at is None else max(0.0, (wake_at - now) / 1e9))

    def _call(self) -> None:
        """Wake up workers, if there are more batches than workers that were woken up already."""
        while self._idle and self._idle.coming < self._batcher.due:
            self._idle.call()

    def _outdated(self, now_ns: int) -> Sequence[Entry[Frame]]:
        """Remove the frames that waited too long, so that no stale frame is inferred."""
        if not self._batcher.room:
            return ()

        def too_old(stream: str, frame: Frame) -> bool:
            max_age_ns, captured_ns = self._max_ages.get(stream), frame.trace.captured_ns
            return max_age_ns is not None and 0 < captured_ns < now_ns - max_age_ns

        return self._batcher.withdraw(too_old)

    def done(
        self, batch: Batch[Frame], engine: Engine, engine_ns: int, error: EngineError | None = None
    ) -> Sequence[ReplicaRemoval] | None:
        """Count a batch that has left its engine.

        Args:
            batch: The batch.
            engine: Its engine.
            engine_ns: Its engine time; 0 if it failed.
            error: Why it failed.

        Returns:
            If the batch failed on an engine that is no longer used, and the lane continues on others: the replicas that were
            removed because of it. Otherwise None.
        """
        with self._lock:
            left = self._using[id(engine)] - 1
            if left:
                self._using[id(engine)] = left
            else:
                del self._using[id(engine)]
                if engine is not self._loads[batch.lane].replicas[batch.replica].engine:
                    self._freed.notify_all()
            self._batcher.done(batch, engine_ns)
            # A replica is removed before another worker can take a batch for it.
            removed = None if error is None else self._failed(batch, engine, error)
            self._loads[batch.lane].add(batch, engine_ns, self._clock.monotonic_ns())
            # The calling worker takes the next batch itself, so no other has to be woken up, except to end.
            if self._closed:
                self._idle.call_all()
        return removed

    def _failed(self, batch: Batch[Frame], engine: Engine, error: EngineError) -> Sequence[ReplicaRemoval] | None:
        """Count a failure; remove the replica if its device is lost or it fails repeatedly, except the last of its lane.

        If its device has too little memory, it is used again after some time."""
        load = self._loads[batch.lane]
        load.failures += 1
        load.error = str(error)
        replica = load.replicas[batch.replica]
        if replica.engine is not engine:  # it was replaced meanwhile
            return None
        replica.failures += 1
        replica.failures_in_a_row += 1
        if replica.removed:
            return ()
        lost = error.device_lost
        if not lost and replica.failures_in_a_row < REMOVE_AFTER:
            return None
        reason, again_at_ns = load.error, 0
        if isinstance(error, DeviceMemoryError):
            wait_s = min(MAX_RETRY_S, RETRY_S * 2**replica.shortages)
            reason = f"{reason.rstrip('.')}; it is used again in {wait_s:.0f} s"
            again_at_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)
        removed: list[ReplicaRemoval] = []
        for lane, other in self._loads.items():
            in_use = [one for one in other.replicas if one.settings.ready and not one.removed]
            for number, one in enumerate(other.replicas):
                affected = one is replica or (lost and one.settings.device == replica.settings.device)
                if affected and one in in_use and len(in_use) > 1:
                    one.removed, one.again_at_ns = reason, again_at_ns
                    one.shortages += again_at_ns > 0
                    self._batcher.change_lane(replace(one.settings, ready=False), number)
                    removed.append(ReplicaRemoval(lane, one.settings.device, one.engine.name, reason))
        return removed if replica.removed else None

    def close(self) -> None:
        """Accept no more frames: :meth:`take` returns None once no frame waits."""
        with self._lock:
            self._closed = True
            self._idle.call_all()

    @property
    def padded(self) -> int:
        """The number of slots that were padding so far."""
        return self._batcher.padded
