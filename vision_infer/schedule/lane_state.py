"""The state of one lane in the batcher: its settings, its streams' queues, and the cost of its frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vision_infer.schedule.queues import FrameQueue, QueuedItem

T = TypeVar("T")

UNKNOWN_NS = 1.0
"""The charge of a frame before the lane's first batch is done. It is the same for every frame, so that streams take turns."""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What the batcher knows about a lane: one engine with one input size."""

    name: str
    batch_sizes: tuple[int, ...]
    """The batch sizes of the engine, ascending; a batch between two sizes is padded to the larger one."""
    in_flight: int
    """The maximum number of batches in the engine at the same time."""
    max_wait_ns: int = 0
    """The maximum wait for a fuller batch, from a stream's oldest frame on; a newer frame in its mailbox does not restart it."""
    ready: bool = True
    """Whether the engine is open; until then no batch goes."""

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"batch_sizes must be ascending from at least 1, got {sizes}")
        if self.in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {self.in_flight}")
        if self.max_wait_ns < 0:
            raise ValueError(f"max_wait_ns must not be negative, got {self.max_wait_ns}")


@dataclass(slots=True)
class LaneState(Generic[T]):
    """The frames that wait for one lane, and its batches in the engine."""

    settings: LaneSettings
    queues: dict[str, FrameQueue[T]] = field(default_factory=dict)
    since_ns: dict[str, int] = field(default_factory=dict)
    """The streams with waiting frames, and the time since they wait."""
    waiting: int = 0
    flying: int = 0
    frame_ns: float = UNKNOWN_NS
    """The estimated engine time of a frame."""

    @property
    def batch_ns(self) -> float:
        """The estimated engine time of a full batch."""
        return self.frame_ns * self.settings.batch_sizes[-1]

    def is_ready(self, now_ns: int) -> bool:
        """Return whether a batch of this lane can go now."""
        settings = self.settings
        if self.waiting == 0 or not settings.ready or self.flying >= settings.in_flight:
            return False
        if settings.max_wait_ns == 0 or self.waiting >= settings.batch_sizes[-1]:
            return True
        return now_ns - min(self.since_ns.values()) >= settings.max_wait_ns

    def pop(self, stream: str) -> QueuedItem[T]:
        """Take the next frame of a stream."""
        queue = self.queues[stream]
        taken = queue.pop()
        self.waiting -= 1
        following = queue.oldest()
        if following is None:
            del self.since_ns[stream]
        else:
            self.since_ns[stream] = following.arrived_ns
        return taken
