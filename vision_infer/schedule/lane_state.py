"""The state of one lane in the batcher: its replicas, its streams' queues, and the cost of its frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vision_infer.schedule.queues import FrameQueue, QueuedItem

T = TypeVar("T")

UNKNOWN_NS = 1.0
"""The charge of a frame before the lane's first batch is done. It is the same for every frame, so that streams take turns."""


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What the batcher knows about a replica of a lane: one engine on one device."""

    name: str
    """The name of the lane."""
    batch_sizes: tuple[int, ...]
    """The batch sizes of the engine, ascending; a batch between two sizes is padded to the larger one."""
    in_flight: int
    """The maximum number of batches in the engine at the same time."""
    max_wait_ns: int = 0
    """The maximum wait for a fuller batch, from a stream's oldest frame on; a newer frame in its mailbox does not restart it."""
    ready: bool = True
    """Whether the engine is open and in use; otherwise no batch goes to it."""
    device: str = ""
    """The device. Replicas of several lanes on one device share its capacity."""
    gpu: int | None = None
    """The GPU from whose memory the engine reads images without a copy through the host; None: it reads host memory."""

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise ValueError(f"batch_sizes must be ascending from at least 1, got {sizes}")
        if self.in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {self.in_flight}")
        if self.max_wait_ns < 0:
            raise ValueError(f"max_wait_ns must not be negative, got {self.max_wait_ns}")


@dataclass(slots=True)
class DeviceState:
    """A device that replicas of several lanes share."""

    flying: int = 0
    """The number of batches on the device now."""


@dataclass(slots=True)
class ReplicaState:
    """One engine of a lane."""

    number: int
    settings: LaneSettings
    device: DeviceState
    flying: int = 0
    """The number of batches in the engine now."""
    frame_ns: float = UNKNOWN_NS
    """The estimated engine time of a slot."""

    def change(self, settings: LaneSettings, device: DeviceState) -> None:
        """Use other settings, possibly on another device, from the next batch on."""
        self.device.flying -= self.flying
        device.flying += self.flying
        self.settings, self.device = settings, device

    def capacity(self, in_flight: int) -> int:
        """Return the number of further batches that it can take now; may be negative after its settings have changed.

        Args:
            in_flight: The maximum number of batches on its device.
        """
        settings = self.settings
        if not settings.ready:
            return 0
        capacity, on_device = settings.in_flight - self.flying, in_flight - self.device.flying
        return capacity if capacity < on_device else on_device


def choose_replica(free: list[ReplicaState], home: int | None) -> ReplicaState:
    """Return the free replica for an image: one on the GPU that holds it, or else the one that will be done first.

    Args:
        free: The replicas that can take a batch.
        home: The GPU that holds the image; None: host memory.
    """

    def rank(replica: ReplicaState) -> tuple[bool, float]:
        return home is None or replica.settings.gpu != home, replica.frame_ns * (replica.flying + 1)

    return min(free, key=rank)


@dataclass(slots=True)
class LaneState(Generic[T]):
    """The frames that wait for one lane, and its batches in the engines."""

    replicas: list[ReplicaState]
    queues: dict[str, FrameQueue[T]] = field(default_factory=dict)
    since_ns: dict[str, int] = field(default_factory=dict)
    """The streams with waiting frames, and the time since they wait."""
    waiting: int = 0
    frame_ns: float = UNKNOWN_NS
    """The estimated engine time of a slot, averaged over the batches of all replicas."""

    @property
    def flying(self) -> int:
        """The number of batches in the engines now."""
        return sum(replica.flying for replica in self.replicas)

    @property
    def batch_ns(self) -> float:
        """The estimated engine time of the largest batch."""
        return self.frame_ns * max(replica.settings.batch_sizes[-1] for replica in self.replicas)

    @property
    def max_wait_ns(self) -> int:
        """The maximum wait of a frame for a fuller batch."""
        return self.replicas[0].settings.max_wait_ns

    def free(self, in_flight: int) -> list[ReplicaState]:
        """Return the replicas that can take a batch now.

        Args:
            in_flight: The maximum number of batches on a device.
        """
        replicas = self.replicas
        if len(replicas) == 1:  # the usual case: no copy
            return replicas if replicas[0].capacity(in_flight) > 0 else []
        return [replica for replica in replicas if replica.capacity(in_flight) > 0]

    def is_due(self, free: list[ReplicaState], now_ns: int) -> bool:
        """Return whether the waiting frames, at least one, can go now to one of the free replicas, at least one."""
        wait_ns = self.replicas[0].settings.max_wait_ns
        if wait_ns == 0 or self.waiting >= max(replica.settings.batch_sizes[-1] for replica in free):
            return True
        return now_ns - min(self.since_ns.values()) >= wait_ns

    def slots(self, stream: str) -> int:
        """Return the number of slots that the next frame of a stream needs."""
        queued = self.queues[stream].oldest()
        return 1 if queued is None else queued.slots

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
