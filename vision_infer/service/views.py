"""Streams, models and snapshots as the service shows them to its clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from vision_infer.config.serve import StreamSettings
from vision_infer.pipeline.status import StreamStatus

Origin: TypeAlias = Literal["file", "command_line", "api"]
"""Where a stream's settings come from: the configuration file, a URL on the command line, or the API, which stores them."""


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream with its settings and status."""

    name: str
    origin: Origin
    settings: StreamSettings
    status: StreamStatus | None
    """The status; None if the stream is disabled."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that streams can use."""

    name: str
    task: str
    input_size: tuple[int, int]
    """The width and height in pixels."""
    labels: tuple[str, ...]
    """The labels by class number; empty if the number is the label."""
    license: str
    loaded: bool
    """Whether an engine has loaded the model."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A JPEG image of a stream."""

    jpeg: bytes
    captured_wall_ns: int
    """The capture time, nanoseconds since 1970 (UTC)."""
    width: int
    height: int
