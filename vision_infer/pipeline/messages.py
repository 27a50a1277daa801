"""The messages from the workers to the results stage. Those of one stream arrive in the order in which things happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vision_infer.core.errors import EngineError, StreamError
from vision_infer.core.frame import Frame
from vision_infer.engine.engine import Engine, RawResults
from vision_infer.pipeline.hooks.stage import Hooked
from vision_infer.pipeline.lanes.lane import Lane
from vision_infer.pipeline.status import ReplicaRemoval
from vision_infer.schedule.batcher import Batch


@dataclass(slots=True)
class Inferred:
    """A batch has left the engine."""

    batch: Batch[Frame]
    lane: Lane
    engine: Engine
    raw: RawResults
    unreadable: dict[int, str] = field(default_factory=dict)
    """The slots of the batch into which the image could not be written, each with the reason."""
    tiled: bool = False
    """Whether a frame of the batch has tiles."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine failed on a batch."""

    batch: Batch[Frame]
    lane: Lane
    error: EngineError
    removed: Sequence[ReplicaRemoval] | None = None
    """The replicas that were removed because of it, see :meth:`vision_infer.pipeline.dispatch.Dispatch.done`."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An inference worker has ended with an internal error."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Passed:
    """A frame that is drawn but not inferred."""

    frame: Frame
    sequence: int


@dataclass(frozen=True, slots=True)
class Gated:
    """A frame in which nothing has moved: it repeats the last result."""

    frame: Frame
    sequence: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """A newer frame has replaced a live stream's frame. The sender has counted the drop and returned the credit."""

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
    """A stream delivers no more frames."""

    stream: str
    sequences: int
    """The number of frames that have entered the pipeline."""
    complete: bool
    """Whether the stream was read to its end: neither stopped nor broken."""
    error: StreamError | None


@dataclass(frozen=True, slots=True)
class Finish:
    """Every stream has ended: the results stage can stop."""


Message = Inferred | Failed | Broken | Passed | Gated | Superseded | Outdated | Hooked | Ended | Finish
