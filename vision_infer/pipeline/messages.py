"""What the workers tell the results stage, in the order in which it happened for each stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from vision_infer.core.errors import EngineError, StreamError
from vision_infer.core.frame import Frame
from vision_infer.engine.engine import Engine, RawResults
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.schedule.batcher import Batch


@dataclass(slots=True)
class Inferred:
    """A batch has left the engine."""

    batch: Batch[Frame]
    lane: Lane
    engine: Engine
    raw: RawResults
    unreadable: dict[int, str] = field(default_factory=dict)
    """places of the batch whose picture could not be written into its slot, and why"""


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine failed on a batch."""

    batch: Batch[Frame]
    lane: Lane
    error: EngineError


@dataclass(frozen=True, slots=True)
class Broken:
    """An inference worker met an error of our own and has ended."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Passed:
    """A frame that is not inferred, but drawn."""

    frame: Frame
    sequence: int


@dataclass(frozen=True, slots=True)
class Gated:
    """A frame in which nothing has moved: it repeats what was found last."""

    frame: Frame
    sequence: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """A live stream's frame gave its place to a newer one; who says so has counted it, and given its credit back."""

    stream: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Outdated:
    """A live stream's frame waited for the engine until it was too old."""

    stream: str
    sequence: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class Ended:
    """A stream gives no more frames."""

    stream: str
    sequences: int
    """how many it has given"""
    complete: bool
    """it was read to its end: not stopped, not broken"""
    error: StreamError | None


@dataclass(frozen=True, slots=True)
class Finish:
    """Every stream has ended: the results stage may stop."""


Message = Inferred | Failed | Broken | Passed | Gated | Superseded | Outdated | Ended | Finish
