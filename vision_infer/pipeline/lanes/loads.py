"""The work of lanes and of their replicas so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from vision_infer.core.frame import Frame
from vision_infer.engine.engine import Engine
from vision_infer.schedule.batcher import Batch
from vision_infer.schedule.lane_state import LaneSettings
from vision_infer.telemetry.rolling import RollingHistogram, RollingRate


@dataclass(slots=True)
class ReplicaLoad:
    """An engine of a lane, and its work so far."""

    engine: Engine
    settings: LaneSettings
    batches: int = 0
    frames: int = 0
    engine_ns: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    removed: str = ""
    """Why it was removed from the lane; empty while it is in use."""
    shortages: int = 0
    """The number of times that it was removed for a shortage of memory since its last batch."""
    again_at_ns: int = 0
    """When it is used again, monotonic; 0: it is in use, or was removed for good."""
    rate: RollingRate = field(default_factory=lambda: RollingRate(1))
    """The engine time per second, nanoseconds."""


@dataclass(slots=True)
class LaneLoad:
    """The work of a lane so far."""

    replicas: list[ReplicaLoad] = field(default_factory=list)

    batches: dict[int, int] = field(default_factory=dict)
    """The number of batches, by the number of frames in them."""
    frames: int = 0
    padded: int = 0
    engine_ns: int = 0
    failures: int = 0
    error: str | None = None
    """The last failure."""
    times: RollingHistogram = field(default_factory=RollingHistogram)
    """The engine times of the batches of the last minute."""

    def add(self, batch: Batch[Frame], engine_ns: int, now_ns: int) -> None:
        """Count a batch that has left the engine; a batch on which it failed (0 ns) is counted elsewhere."""
        if engine_ns <= 0:
            return
        self.times.record(now_ns, engine_ns)
        count = len(batch.entries)
        replica = self.replicas[batch.replica]
        replica.batches += 1
        replica.frames += count
        replica.engine_ns += engine_ns
        replica.failures_in_a_row = replica.shortages = 0
        self.batches[count] = self.batches.get(count, 0) + 1
        self.frames += count
        self.padded += batch.padding
        self.engine_ns += engine_ns

    def copy(self) -> LaneLoad:
        """Return a copy, which no longer changes."""
        return replace(self, batches=self.batches.copy(), replicas=[replace(replica) for replica in self.replicas])
